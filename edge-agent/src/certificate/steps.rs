//! The steps other than an order: a key comes into the zone, is seen there, and is given to the mail
//! server.

use sealpost_tunnel::{DomainName, MxName};
use tracing::{error, info, warn};

use super::install;
use super::keeper::{Work, now};
use super::memory::{Current, Next, Retiring};
use super::order::Authority;
use super::pair::{self, Pair};
use super::progress::{self, Wanted};
use super::renewal;
use super::servers::{Expected, Found, What};
use crate::deliver::certificate::shown;
use crate::publish::hex;
use crate::zone::content;
use crate::zone::plan::KeyDigest;

/// Between two runs of the owner's command for a mail server that does not show the new key.
const RELOAD_AGAIN: u64 = 3600;
/// The most names for which the mail server is asked what it shows.
const MAX_LOOKS: usize = 16;
/// The most replaced keys whose records are kept.
const MAX_RETIRING: usize = 8;

impl Work {
    /// Makes the next pair and puts it into the zones.
    pub(super) async fn prepare(&mut self, wanted: &Wanted) -> Result<(), String> {
        let algorithm = wanted.algorithm;
        let made = tokio::task::spawn_blocking(move || Pair::generate(algorithm)).await;
        let pair = made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let key = pair.digest();
        // Before it is there: how long resolvers may know that it is not.
        let mut kept = 0;
        for (domain, expected) in self.expected(&key) {
            kept = kept.max(self.keeper.name_servers.ask(&domain, &expected).await.ttl);
        }
        if kept == 0 {
            kept = content::TTL.as_secs();
        }
        pair.save(&self.folder).map_err(|error| error.to_string())?;
        if let Some(unused) = self.memory.next.take() {
            pair::forget(&self.folder, &unused.key);
        }
        let (ask_at, asked) = (now(), 0);
        self.memory.next = Some(Next {
            key,
            algorithm,
            since: None,
            answering: None,
            kept,
            ask_at,
            asked,
            issued: None,
        });
        info!(
            key = hex::text(&key),
            "the next key of the mail server's certificate comes into the zone"
        );
        Ok(())
    }

    /// The TLSA records of `key`, by zone.
    fn expected(&self, key: &KeyDigest) -> Vec<(DomainName, Vec<Expected>)> {
        let record =
            |name: &MxName| Expected { name: format!("_25._tcp.{name}."), what: What::Key(*key) };
        let zones = self.exchangers().into_iter();
        zones.map(|(domain, names)| (domain, names.iter().map(record).collect())).collect()
    }

    /// Asks all name servers for the next key. Returns why it must not be shown now, whatever the time;
    /// servers that do not answer are no such reason while others do.
    async fn asked(&mut self) -> Vec<String> {
        let Some(key) = self.memory.next.as_ref().map(|next| next.key) else { return Vec::new() };
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for (domain, expected) in self.expected(&key) {
            found.push(self.keeper.name_servers.ask(&domain, &expected).await);
            let error = self.keeper.wishes.published(&domain).and_then(|it| it.error);
            wrong.extend(error.map(|error| format!("{domain}: {error}")));
        }
        let found = Found::all(found);
        if let Some(next) = &mut self.memory.next {
            progress::asked(next, &found, !wrong.is_empty(), now());
        }
        if self.silent != found.silent && !found.silent.is_empty() {
            let servers = found.silent.join("; ");
            warn!(servers, "asked in vain for the TLSA records of the next key");
        }
        wrong.extend(found.lacking);
        if !found.answered {
            wrong.extend(found.silent.iter().cloned());
        }
        self.silent = found.silent;
        wrong
    }

    pub(super) async fn ask(&mut self, wanted: &Wanted) -> Result<(), String> {
        let mut wrong = self.asked().await;
        if wrong.is_empty() && !self.passes_over(wanted) {
            wrong.extend(self.silent.iter().cloned());
        }
        self.waiting = match wrong.is_empty() {
            true => None,
            false => Some(format!("the next key is not everywhere yet: {}", wrong.join("; "))),
        };
        Ok(())
    }

    /// The pair that the mail server gets next. Of one whose file has gone nothing will come: another
    /// is prepared.
    pub(super) fn next_pair(&mut self, key: &KeyDigest) -> Result<Pair, pair::PairError> {
        let loaded = Pair::load(&self.folder, key);
        if let Err(pair::PairError::Missing(_)) = &loaded {
            self.memory.next = None;
        }
        loaded
    }

    /// Gives the next pair to the mail server, if it is still at every name server that answers.
    pub(super) async fn install(&mut self, wanted: &Wanted) -> Result<(), String> {
        let wrong = self.asked().await;
        if !wrong.is_empty() {
            self.waiting = Some(format!("the next key left the zone: {}", wrong.join("; ")));
            return Ok(());
        }
        self.waiting = None;
        let Some(next) = self.memory.next.clone() else { return Ok(()) };
        // A server that fell silent just now may be one that was never seen to have the key.
        if let Err(why) = progress::may_use(&self.memory, &next, wanted, now()) {
            let silent = self.silent.join("; ");
            self.waiting =
                Some(format!("a certificate is there and is not installed yet: {why} ({silent})"));
            return Ok(());
        }
        let Some(issued) = progress::issued(&next, wanted).cloned() else { return Ok(()) };
        let pair = self.next_pair(&next.key).map_err(|error| error.to_string())?;
        let path = pair::chain_file(&self.folder, &next.key);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let written = self.files.write(&self.keeper.settings, &pair.pem(), &text);
        written.map_err(|error| error.to_string())?;
        if !self.silent.is_empty() {
            let servers = self.silent.join("; ");
            warn!(
                servers,
                "passed over, as all others serve the key's TLSA records for long enough: if such a \
                 name server is gone for good, take it out of the delegation"
            );
        }
        let at = now();
        if let Some(old) = self.memory.current.take() {
            self.memory.retiring.insert(0, Retiring { key: old.key, kept: old.kept });
            self.memory.retiring.truncate(MAX_RETIRING);
        }
        info!(
            key = hex::text(&next.key),
            certificate = %self.files.certificate.display(),
            until = issued.not_after,
            "a certificate was installed"
        );
        self.memory.current = Some(Current {
            key: next.key,
            renew_at: renewal::by_lifetime(issued.not_before, issued.not_after, rand::random()),
            poll_at: issued.renewal_id.as_ref().map(|_| at),
            issued,
            kept: next.kept,
            shown_since: None,
            look_at: at,
            looked: 0,
            reloaded_at: at,
        });
        self.memory.next = None;
        self.save()?;
        self.reload().await;
        Ok(())
    }

    async fn reload(&mut self) {
        let settings = &self.keeper.settings;
        let Some(program) = settings.reload.first().cloned() else { return };
        match install::reload(&settings.reload, settings.reload_timeout).await {
            Ok(said) => info!(program, said, "the mail server was told of its certificate"),
            Err(why) => error!(why, "the mail server was not told of its certificate"),
        }
        if let Some(current) = &mut self.memory.current {
            current.reloaded_at = now();
        }
    }

    /// Sees whether the mail server shows the installed key and none before it.
    pub(super) async fn look(&mut self, wanted: &Wanted) -> Result<(), String> {
        let Some(current) = self.memory.current.clone() else { return Ok(()) };
        let wrong = self.wrong(&current).await;
        let old: Vec<_> = self.memory.retiring.iter().map(|it| it.key).collect();
        let at = now();
        let first = current.shown_since.is_none();
        let done = progress::looked(&mut self.memory, wrong.is_none(), wanted.margin, at);
        match &wrong {
            Some(why) => {
                warn!(why, "both keys stay in the zone: the mail server does not show its new key");
                if at.saturating_sub(current.reloaded_at) >= RELOAD_AGAIN {
                    self.reload().await;
                }
            }
            None if first => {
                info!(key = hex::text(&current.key), "the mail server shows its new key")
            }
            None => {}
        }
        self.waiting = wrong.map(|why| {
            format!("the mail server does not show the installed key, so old ones stay: {why}")
        });
        if done {
            for key in old {
                info!(key = hex::text(&key), "an old key leaves the zone");
                pair::forget(&self.folder, &key);
            }
        }
        Ok(())
    }

    /// Why what the mail server shows is not right, if it is not.
    async fn wrong(&self, current: &Current) -> Option<String> {
        let names: Vec<_> = self.exchangers().into_values().flatten().take(MAX_LOOKS).collect();
        if self.keeper.services.is_empty() {
            return Some("no [[service]] is configured, so it cannot be asked".into());
        }
        let ours = hex::text(&current.key);
        let old: Vec<_> = self.memory.retiring.iter().map(|it| hex::text(&it.key)).collect();
        for service in &self.keeper.services {
            let found = match shown(service, names.clone()).await {
                Ok(found) => found,
                Err(why) => return Some(format!("{}: {why}", service.name)),
            };
            for (name, shown) in found {
                if !shown.iter().any(|it| it.key == ours) {
                    return Some(format!("{} shows another key for {name}", service.name));
                }
                if shown.iter().any(|it| old.contains(&it.key)) {
                    return Some(format!("{} shows an old key too for {name}", service.name));
                }
            }
        }
        None
    }

    /// Asks the CA when to renew (RFC 9773).
    pub(super) async fn poll(&mut self) -> Result<(), String> {
        let Some(mut current) = self.memory.current.clone() else { return Ok(()) };
        let id = current.issued.renewal_id.clone();
        let id = id.filter(|_| current.issued.directory == self.keeper.settings.directory);
        let Some(id) = id else {
            current.poll_at = None;
            self.memory.current = Some(current);
            return Ok(());
        };
        let settings = self.keeper.settings.clone();
        let asked = async {
            let met =
                Authority::meet(&settings, &mut self.accounts, &self.folder, &self.https).await;
            met?.window(&id).await
        };
        let (asked, at) = (Box::pin(asked).await, now());
        match asked {
            Ok(Some((window, again))) => {
                let (chosen, end) = (current.renew_at, current.issued.not_after);
                current.renew_at = renewal::by_window(window, chosen, end, rand::random());
                current.poll_at = Some(at + renewal::poll_again(Some(again)));
            }
            Ok(None) => current.poll_at = None,
            Err(failure) => {
                warn!(why = failure.why, "the CA does not tell when to renew");
                current.poll_at = Some(at + renewal::poll_again(None));
            }
        }
        self.memory.current = Some(current);
        Ok(())
    }
}

//! One order at a CA, from the account to the chain (RFC 8555 section 7).

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use sealpost_tunnel::spoken::spoken;
use serde::Deserialize;

use super::account::Accounts;
use super::https::{Https, HttpsError};
use super::memory::OpenOrder;
use super::settings::Settings;

/// How long the CA may take to check challenges, and again to issue.
const CHECKING: Duration = Duration::from_secs(5 * 60);
/// The longest that is repeated of what a CA says, in characters.
const MAX_WORDS: usize = 1000;
/// The most that is listed of what a CA's directory says.
const MAX_META: usize = 64;

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub why: String,
    /// Whether the order is of no more use.
    pub order_ended: bool,
    /// Whether the CA knows the account no more.
    pub account_unknown: bool,
    /// Whether the CA does not take the order as one that replaces a certificate.
    pub not_replaceable: bool,
    /// Whether the CA only wants a fresher nonce, more often than the library is patient for. Then
    /// the same is to be done again at once (RFC 8555 section 6.5).
    pub stale_nonce: bool,
}

impl Failure {
    /// Something that has nothing to do with the CA's answer.
    pub fn other(why: impl Into<String>) -> Self {
        Self {
            why: spoken(&why.into(), MAX_WORDS),
            order_ended: false,
            account_unknown: false,
            not_replaceable: false,
            stale_nonce: false,
        }
    }

    fn of(doing: &str, error: Error) -> Self {
        let kind = match &error {
            Error::Api(problem) => problem.r#type.as_deref().unwrap_or_default(),
            _ => "",
        };
        let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default();
        // After these the same order may be gone on with.
        let passing = ["rateLimited", "serverInternal", "badNonce", ""];
        Self {
            why: spoken(&format!("{doing}: {}", words(&error)), MAX_WORDS),
            order_ended: !passing.contains(&kind),
            account_unknown: kind == "accountDoesNotExist",
            not_replaceable: kind == "alreadyReplaced"
                || words(&error).contains("replaces field mismatch"),
            stale_nonce: kind == "badNonce",
        }
    }
}

impl From<HttpsError> for Failure {
    fn from(error: HttpsError) -> Self {
        let source = error.source().map(|it| format!(": {it}")).unwrap_or_default();
        Self::other(format!("{error}{source}"))
    }
}

/// What an error says, without the library's own words where the CA said something.
fn words(error: &Error) -> String {
    let Error::Api(problem) = error else { return error.to_string() };
    let mut said = problem.detail.clone().unwrap_or_else(|| "no reason given".into());
    if let Some(kind) = &problem.r#type {
        let kind = kind.rsplit(':').next().unwrap_or(kind);
        said = format!("{said} ({kind})");
    }
    for sub in problem.subproblems.iter().take(8) {
        said = format!("{said}; {sub}");
    }
    said
}

/// The directory of a CA, as far as the library does not tell.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Directory {
    meta: Meta,
}

/// What a CA says of itself (RFC 8555 section 9.7.6).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    caa_identities: Vec<String>,
    terms_of_service: Option<String>,
    external_account_required: bool,
}

/// A CA with which there is an account.
pub struct Authority {
    account: Account,
    https: Https,
}

impl Authority {
    /// Comes to an account: the one that there is, or a new one, which is saved in `folder`.
    pub async fn meet(
        settings: &Settings,
        accounts: &mut Accounts,
        folder: &Path,
        https: &Https,
    ) -> Result<Self, Failure> {
        let ca = &settings.directory;
        let text = https.get(ca).await?;
        let directory: Directory = serde_json::from_slice(&text)
            .map_err(|error| Failure::other(format!("{ca} is no ACME directory: {error}")))?;
        let meta = directory.meta;
        let builder = || -> AccountBuilder { Account::builder_with_http(Box::new(https.clone())) };
        let account = match accounts.credentials(ca) {
            Some(known) => builder()
                .from_credentials(known)
                .await
                .map_err(|error| Failure::of("the account at the CA", error))?,
            None => {
                if meta.external_account_required {
                    return Err(Failure::other(format!(
                        "{ca} wants accounts to be opened elsewhere first, which is not possible here"
                    )));
                }
                let contact: Vec<_> = settings.contact.iter().map(String::as_str).collect();
                let new = NewAccount {
                    contact: &contact,
                    terms_of_service_agreed: settings.terms_agreed,
                    only_return_existing: false,
                };
                let (account, credentials) =
                    builder().create(&new, ca.clone(), None).await.map_err(|error| {
                        let terms = meta.terms_of_service.as_deref().unwrap_or("not named");
                        let doing = format!("opening an account at the CA (its terms: {terms})");
                        Failure::of(&doing, error)
                    })?;
                accounts
                    .put(ca, account.id(), &credentials)
                    .map_err(|error| Failure::other(error.to_string()))?;
                save(accounts, folder)?;
                tracing::info!(account = account.id(), directory = ca, "account at the CA opened");
                account
            }
        };
        if accounts.identified(ca, &meta.caa_identities) {
            save(accounts, folder)?;
        }
        Ok(Self { account, https: https.clone() })
    }

    /// The window for the renewal of a certificate, in seconds since 1970, and when to ask again;
    /// `None` where the CA does not tell.
    pub async fn window(
        &self,
        renewal_id: &str,
    ) -> Result<Option<((u64, u64), Duration)>, Failure> {
        let Some((authority, serial)) = renewal_id.split_once('.') else { return Ok(None) };
        let id = CertificateIdentifier {
            authority_key_identifier: authority.into(),
            serial: serial.into(),
        };
        match self.account.renewal_info(&id).await {
            Ok((info, again)) => {
                let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
                let window = info.suggested_window;
                if let Some(url) = info.explanation_url {
                    let url = spoken(&url, MAX_WORDS);
                    tracing::warn!(url, "the CA explains when to renew");
                }
                let start = seconds(window.start.unix_timestamp());
                Ok(Some(((start, seconds(window.end.unix_timestamp())), again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(Failure::of("asking the CA for the time of renewal", error)),
        }
    }

    /// The order that is open, or a new one for `names`. `replaces` is the certificate that it takes
    /// the place of.
    pub async fn order(
        &self,
        settings: &Settings,
        open: Option<&OpenOrder>,
        names: &[String],
        replaces: Option<&str>,
    ) -> Result<Order, Failure> {
        if let Some(open) = open {
            return match self.account.order(open.url.clone()).await {
                Ok(order) => Ok(order),
                Err(error) => Err(Failure::of("going on with the open order", error)),
            };
        }
        if let Some(profile) = &settings.profile {
            let known: Vec<_> =
                self.account.profiles().map(|it| it.name.to_owned()).take(MAX_META).collect();
            if !known.contains(profile) {
                return Err(Failure::other(format!(
                    "the CA has no profile `{profile}`; it has: {}",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                )));
            }
        }
        let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = &settings.profile {
            new = new.profile(profile);
        }
        if let Some((authority, serial)) = replaces.and_then(|id| id.split_once('.')) {
            new = new.replaces(CertificateIdentifier {
                authority_key_identifier: authority.into(),
                serial: serial.into(),
            });
        }
        match self.account.new_order(&new).await {
            Err(Error::Unsupported(_)) if replaces.is_some() => {
                let mut plain = NewOrder::new(&identifiers);
                if let Some(profile) = &settings.profile {
                    plain = plain.profile(profile);
                }
                self.account.new_order(&plain).await
            }
            other => other,
        }
        .map_err(|error| Failure::of("ordering a certificate", error))
    }

    /// What the CA said about waiting, in seconds since 1970.
    pub fn told_to_wait(&self) -> Option<u64> {
        self.https.told_to_wait()
    }
}

fn save(accounts: &Accounts, folder: &Path) -> Result<(), Failure> {
    accounts.save(folder).map_err(|error| Failure::other(format!("the account: {error}")))
}

/// A challenge: the name, and the text that must be at `_acme-challenge` beneath it.
pub type Wanted = (String, String);

/// What the CA wants to see for an order that is not ready yet. A name that was not ordered is
/// refused: a CA has no say in what else stands in the zone.
pub async fn challenges(order: &mut Order, names: &[String]) -> Result<Vec<Wanted>, Failure> {
    let ordered: BTreeSet<_> = names.iter().collect();
    let mut wanted = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next.map_err(|error| Failure::of("asking what to prove", error))?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(ended(format!("the CA gave up the proof of {name}"))),
        }
        if !ordered.contains(&name) {
            return Err(ended(format!("the CA wants a proof of {name}, which was not ordered")));
        }
        if wanted.len() >= names.len() {
            return Err(ended("the CA wants more proofs than names were ordered".into()));
        }
        let Some(challenge) = authorization.challenge(ChallengeType::Dns01) else {
            return Err(ended(format!("the CA does not take DNS-01 for {name}")));
        };
        wanted.push((name, challenge.key_authorization().dns_value()));
    }
    Ok(wanted)
}

/// Tells the CA that all challenges stand, and waits until it has seen them.
pub async fn prove(order: &mut Order) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next.map_err(|error| Failure::of("asking what to prove", error))?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01) else { continue };
        let told = challenge.set_ready().await;
        told.map_err(|error| Failure::of("telling the CA of the challenge", error))?;
    }
    match order.poll_ready(&patience()).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => Err(ended(refusals(order).await)),
        Err(Error::Api(_)) if order.state().status == OrderStatus::Invalid => {
            Err(ended(refusals(order).await))
        }
        Err(error) => Err(Failure::of("waiting until the CA has seen the challenges", error)),
    }
}

/// Why the CA did not accept the proofs, name by name.
async fn refusals(order: &mut Order) -> String {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|it| it.error.clone()) {
            said.push(format!("{name}: {}", words(&Error::Api(problem))));
        }
    }
    if said.is_empty() {
        said.push("it does not say why".into());
    }
    format!("the CA did not accept the proof: {}", said.join("; "))
}

/// Has the certificate issued by a request for it, and fetches the chain.
pub async fn finish(order: &mut Order, request: &[u8]) -> Result<String, Failure> {
    if order.state().status == OrderStatus::Ready {
        let sent = order.finalize_csr(request).await;
        sent.map_err(|error| Failure::of("requesting the certificate", error))?;
    }
    let fetched = order.poll_certificate(&patience()).await;
    fetched.map_err(|error| Failure::of("fetching the certificate", error))
}

/// A failure after which a new order is needed.
pub fn ended(why: String) -> Failure {
    Failure { order_ended: true, ..Failure::other(why) }
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().initial_delay(Duration::from_secs(1)).backoff(1.5).timeout(CHECKING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instant_acme::Problem;

    fn problem(kind: &str) -> Error {
        Error::Api(Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: Some("too many certificates\u{1b}[2J".into()),
            status: Some(429),
            subproblems: Vec::new(),
        })
    }

    #[test]
    fn what_a_ca_says_is_readable_and_harmless() {
        let failure = Failure::of("ordering a certificate", problem("rateLimited"));
        assert!(failure.why.starts_with("ordering a certificate: too many certificates"));
        assert!(failure.why.ends_with("(rateLimited)") && !failure.why.contains('\u{1b}'));
        assert!(!failure.order_ended);
        assert!(Failure::of("x", problem("malformed")).order_ended);
        assert!(Failure::of("x", problem("accountDoesNotExist")).account_unknown);
        assert!(Failure::of("x", problem("alreadyReplaced")).not_replaceable);
        assert!(!Failure::of("x", Error::Str("no order URL found")).order_ended);
    }

    #[test]
    fn a_directory_may_say_little() {
        for (text, identities) in [
            ("{}", 0),
            (r#"{"newNonce":"x","meta":{}}"#, 0),
            (r#"{"meta":{"caaIdentities":["ca.example"]}}"#, 1),
        ] {
            let directory: Directory = serde_json::from_str(text).unwrap();
            assert_eq!(directory.meta.caa_identities.len(), identities);
        }
    }
}

//! Whose keys must have signed a new version of a zone, and admission by them.
//!
//! The parent zone is asked only when nothing that is here answers the question, so that a zone goes on
//! while its parent cannot be reached.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use domain::rdata::{Dnskey, Ds, ZoneRecordData};
use serde::Deserialize;
use tokio::task::{JoinError, spawn_blocking};

use crate::admission::{self, Admitted, Expect, Limits, Refused, Seal};
use crate::record::{Name, Record};
use crate::turns::{Owner, Turns};
use crate::zone::Zone;

/// Whose keys sign a zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Trust {
    /// The keys of the version that is here; those of the first version, whichever they are.
    #[default]
    FirstSeen,
    /// Those with one of these DS records.
    Ds(Vec<Ds<Bytes>>),
    /// Nobody's: the zone need not be signed.
    Unsigned,
    /// The keys of the version that is here. If they do not fit, and for the first version, those that
    /// the parent zone vouches for ([`Parent`]); the zone's own where the parent provably vouches for none.
    Parent,
}

/// What the parent zone says of a zone's keys (RFC 4035 section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delegation {
    /// It vouches for those with one of these DS records, which were validated.
    Ds(Vec<Ds<Bytes>>),
    /// It provably vouches for none.
    Insecure,
}

/// Knows what the parents of zones say.
pub trait Parent: Send + Sync + 'static {
    /// What the parent of `apex` says. The error tells why that cannot be known now; it is asked again with
    /// the next try to have the zone.
    fn delegation(&self, apex: &Name) -> impl Future<Output = Result<Delegation, String>> + Send;
}

/// Knows nothing: where no zone is trusted by [`Trust::Parent`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NoParent;

impl Parent for NoParent {
    async fn delegation(&self, _: &Name) -> Result<Delegation, String> {
        Err("parents are not asked here".to_owned())
    }
}

/// Why a version is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// What is wrong with it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It has no keys, though it must have some.
    #[error(
        "the zone is not signed (it has no DNSKEY); sign it, or set trust = \"unsigned\" for it"
    )]
    NotSigned,
    /// Nobody could say whose keys are right.
    #[error("whether the parent zone vouches for its keys cannot be known now: {0}")]
    Parent(String),
    /// A fault of this program.
    #[error("admission ended by a fault of this program: {0}")]
    Fault(#[from] JoinError),
}

impl NotAdmitted {
    /// Whether other keys could have signed it.
    fn is_about_keys(&self) -> bool {
        matches!(self, Self::NotSigned | Self::Refused(Refused::NotPinned | Refused::KeysNotSigned))
    }
}

/// A version that may be admitted.
pub(crate) struct Candidate<O: Owner> {
    pub(crate) apex: Name,
    pub(crate) records: Vec<Record>,
    /// The version that is here.
    pub(crate) here: Option<(Arc<Zone>, Option<Seal>)>,
    /// The serial that it has to go beyond.
    pub(crate) after: Option<u32>,
    pub(crate) limits: Limits,
    /// In Unix seconds.
    pub(crate) now: u64,
    /// Who has its signatures checked, and when.
    pub(crate) owner: O,
    pub(crate) turns: Arc<Turns<O>>,
}

impl<O: Owner> Candidate<O> {
    fn by(&self, trust: admission::Trust) -> Result<Admitted, NotAdmitted> {
        let expect = Expect {
            trust,
            previous_serial: self.after,
            seal: self.here.as_ref().and_then(|(_, seal)| *seal),
            limits: self.limits.clone(),
        };
        Ok(admission::admit(&self.apex, &self.records, &expect, self.now)?)
    }

    fn by_known_keys(&self) -> Result<Admitted, NotAdmitted> {
        let known = self.here.as_ref().map(|(zone, _)| keys(&self.apex, &zone.records()));
        match known.filter(|keys| !keys.is_empty()) {
            Some(keys) => self.by(admission::Trust::Keys(keys)),
            None => self.by_own_keys(),
        }
    }

    fn by_own_keys(&self) -> Result<Admitted, NotAdmitted> {
        let own = keys(&self.apex, &self.records);
        if own.is_empty() {
            return Err(NotAdmitted::NotSigned);
        }
        self.by(admission::Trust::Keys(own))
    }
}

/// The keys of a zone.
fn keys(apex: &Name, records: &[Record]) -> Vec<Dnskey<Bytes>> {
    let of_apex = records.iter().filter(|record| record.owner() == apex);
    let key = |record: &Record| match record.data() {
        ZoneRecordData::Dnskey(key) => Some(key.clone()),
        _ => None,
    };
    of_apex.filter_map(key).collect()
}

/// Admits a version, or says why not.
pub(crate) async fn admit<O: Owner, P: Parent>(
    candidate: &Arc<Candidate<O>>,
    trust: Trust,
    parent: &P,
) -> Result<Admitted, NotAdmitted> {
    match trust {
        Trust::Ds(ds) => by(candidate, |it| it.by(admission::Trust::Ds(ds))).await,
        Trust::Unsigned => by(candidate, |it| it.by(admission::Trust::Unsigned)).await,
        Trust::FirstSeen => by(candidate, Candidate::by_known_keys).await,
        Trust::Parent => {
            if candidate.here.is_some() {
                let known = by(candidate, Candidate::by_known_keys).await;
                if !known.as_ref().is_err_and(NotAdmitted::is_about_keys) {
                    return known;
                }
            }
            match parent.delegation(&candidate.apex).await {
                Ok(Delegation::Ds(ds)) => by(candidate, |it| it.by(admission::Trust::Ds(ds))).await,
                Ok(Delegation::Insecure) => by(candidate, Candidate::by_own_keys).await,
                Err(error) => Err(NotAdmitted::Parent(error)),
            }
        }
    }
}

/// Signatures take time, and other zones and streams want theirs.
async fn by<O: Owner>(
    candidate: &Arc<Candidate<O>>,
    admit: impl FnOnce(&Candidate<O>) -> Result<Admitted, NotAdmitted> + Send + 'static,
) -> Result<Admitted, NotAdmitted> {
    let candidate = candidate.clone();
    let turn = candidate.turns.take(&candidate.owner).await;
    let work = move || {
        // Kept to the end of the work, for which nobody may wait any more.
        let _turn = turn;
        admit(&candidate)
    };
    spawn_blocking(work).await?
}

/// So many zones have their signatures checked at once that one processor is left for all else.
pub(crate) fn turns<O: Owner>() -> Arc<Turns<O>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Turns::new(processors.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use domain::base::iana::Class;
    use domain::base::name::FlattenInto;
    use domain::zonefile::inplace::{Entry, Zonefile};

    use super::*;

    /// 2036-01-01, within the signatures of the zones.
    const NOW: u64 = 2_082_758_400;

    fn parse(text: &str) -> Vec<Record> {
        let mut file = Zonefile::from(text);
        file.set_origin("zone.example".parse::<Name>().unwrap());
        file.set_default_class(Class::IN);
        let mut out: Vec<Record> = Vec::new();
        while let Some(Entry::Record(record)) = file.next_entry().unwrap() {
            out.push(record.flatten_into());
        }
        out
    }

    fn ds(text: &str) -> Vec<Ds<Bytes>> {
        let data = parse(text).into_iter().map(|record| record.into_data());
        data.filter_map(|data| if let ZoneRecordData::Ds(ds) = data { Some(ds) } else { None })
            .collect()
    }

    const ZONE: &str = include_str!("../tests/zones/nsec-p256.zone");
    const ITS_DS: &str = include_str!("../tests/zones/nsec-p256.ds");
    /// The same zone as others signed it.
    const OTHER: &str = include_str!("../tests/zones/nsec-ed25519.zone");
    const OTHER_DS: &str = include_str!("../tests/zones/nsec-ed25519.ds");
    const PLAIN: &str = include_str!("../tests/zones/plain.zone");

    /// `text` after `here`, whose serial counts for nothing here.
    fn candidate(text: &str, here: Option<&str>) -> Arc<Candidate<()>> {
        let apex: Name = "zone.example".parse().unwrap();
        let here = here.map(|text| {
            let before = text.replacen("2026010100", "2026010099", 1);
            (Arc::new(Zone::compile(&apex, &parse(&before)).unwrap()), None)
        });
        let (records, limits) = (parse(text), Limits::default());
        let after = here.as_ref().map(|(zone, _): &(Arc<Zone>, _)| zone.serial());
        Arc::new(Candidate {
            apex,
            records,
            here,
            after,
            limits,
            now: NOW,
            owner: (),
            turns: turns(),
        })
    }

    /// A parent that counts who asks.
    struct Says(Result<Delegation, String>, AtomicUsize);

    impl Parent for Says {
        async fn delegation(&self, _: &Name) -> Result<Delegation, String> {
            self.1.fetch_add(1, SeqCst);
            self.0.clone()
        }
    }

    async fn by_parent(
        candidate: &Arc<Candidate<()>>,
        says: Result<Delegation, String>,
    ) -> (Result<Admitted, NotAdmitted>, usize) {
        let says = Says(says, AtomicUsize::new(0));
        let admitted = admit(candidate, Trust::Parent, &says).await;
        (admitted, says.1.into_inner())
    }

    #[tokio::test]
    async fn the_parent_vouches_for_the_first_version() {
        let first = candidate(ZONE, None);
        let (admitted, asked) = by_parent(&first, Ok(Delegation::Ds(ds(ITS_DS)))).await;
        assert_eq!((admitted.is_ok(), asked), (true, 1));
        let (admitted, _) = by_parent(&first, Ok(Delegation::Ds(ds(OTHER_DS)))).await;
        assert!(matches!(admitted, Err(NotAdmitted::Refused(Refused::NotPinned))));
        assert!(by_parent(&first, Ok(Delegation::Insecure)).await.0.is_ok());
        let (refused, _) = by_parent(&first, Err("timed out".into())).await;
        assert!(refused.unwrap_err().to_string().contains("cannot be known now: timed out"));
    }

    #[tokio::test]
    async fn the_parent_is_not_asked_while_the_keys_stay() {
        let next = candidate(ZONE, Some(ZONE));
        let (admitted, asked) = by_parent(&next, Err("away".into())).await;
        assert_eq!((admitted.is_ok(), asked), (true, 0));
        // Nor for what is wrong by other reasons.
        let broken = ZONE.replacen("192.0.2.", "198.51.100.", 1);
        let (admitted, asked) =
            by_parent(&candidate(&broken, Some(ZONE)), Ok(Delegation::Insecure)).await;
        assert_eq!((admitted.is_err(), asked), (true, 0));
    }

    #[tokio::test]
    async fn new_keys_need_the_parent() {
        let next = candidate(OTHER, Some(ZONE));
        assert!(by_parent(&next, Ok(Delegation::Ds(ds(OTHER_DS)))).await.0.is_ok());
        assert!(by_parent(&next, Ok(Delegation::Ds(ds(ITS_DS)))).await.0.is_err());
        assert!(by_parent(&next, Err("away".into())).await.0.is_err());
        assert!(by_parent(&next, Ok(Delegation::Insecure)).await.0.is_ok());
        assert!(admit(&next, Trust::FirstSeen, &NoParent).await.is_err());
        assert!(admit(&next, Trust::Ds(ds(OTHER_DS)), &NoParent).await.is_ok());
    }

    #[tokio::test]
    async fn a_zone_without_keys_is_told_what_to_do() {
        let plain = candidate(PLAIN, None);
        let error = admit(&plain, Trust::FirstSeen, &NoParent).await.unwrap_err();
        assert!(error.to_string().contains("trust = \"unsigned\""), "{error}");
        assert!(by_parent(&plain, Ok(Delegation::Insecure)).await.0.is_err());
        assert!(admit(&plain, Trust::Unsigned, &NoParent).await.is_ok());
    }
}

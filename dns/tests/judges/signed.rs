//! Signed zones: what NSD and Knot answer with DNSSEC records, ours answers too.
//!
//! The zones are some of the Ferret cases and those of our own cases, signed by `ldns-signzone`. The
//! questions are about every name of a zone and about names near them that do not exist.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use domain::base::iana::Rcode;
use domain::base::name::ToName;
use domain::base::{Name, Rtype};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sealpost_tests::name_server::{Denial, Signer, ZoneFiles, skipped};

use crate::client::{Question, ask_all};
use crate::contestants::{Contestant, ours, references};
use crate::master_file::records;
use crate::message::Answer;
use crate::presentation::Shown;
use crate::{cases, delv, ferret};

/// One of so many Ferret cases is signed: 702 of 6,310.
const ONE_OF: usize = 9;
/// Types that are asked about names that the zone or the case has.
const TYPES: [Rtype; 9] = [
    Rtype::A,
    Rtype::NS,
    Rtype::DS,
    Rtype::MX,
    Rtype::TXT,
    Rtype::CNAME,
    Rtype::DNSKEY,
    Rtype::NSEC3PARAM,
    UNKNOWN,
];
/// A type that no one knows (RFC 3597).
const UNKNOWN: Rtype = Rtype::from_int(65_280);
/// Types that are asked about made-up names.
const TYPES_OF_MUTATIONS: [Rtype; 2] = [Rtype::A, Rtype::DS];
/// So many differences are shown.
const SHOWN: usize = 8;
/// The largest datagram that ours sends; answers much smaller must not be truncated.
const OURS_AT_MOST: usize = 1232;
/// Servers compress names more or less well.
const COMPRESSION: usize = 100;
/// Records of an answer that are aliases. What has more of them helps only an attacker.
const ALIASES_AT_MOST: usize = 40;
/// So many questions are asked at a time: bounds the memory of the answers.
const BATCH: usize = 20_000;
/// NSD 4.6.1 falls when it hashes the wildcard below a name that is too long to have one.
const NSD_HASHES_AT_MOST: usize = 253;

/// A zone before it is signed, and the names that are asked beside its own.
struct Unsigned {
    apex: String,
    text: String,
    names: Vec<String>,
}

#[test]
fn signed_with_nsec() -> Result<()> {
    judge(Denial::Nsec)
}

#[test]
fn signed_with_nsec3() -> Result<()> {
    judge(Denial::Nsec3)
}

fn judge(denial: Denial) -> Result<()> {
    let signer = match Signer::new() {
        Ok(signer) => signer,
        Err(error) => {
            skipped(&format!("{error:#}"));
            return Ok(());
        }
    };
    let unsigned = sample(denial)?;
    let texts: Vec<_> =
        unsigned.iter().map(|zone| (zone.apex.clone(), zone.text.clone())).collect();
    let mut zones = ZoneFiles::new()?;
    for (zone, text) in unsigned.iter().zip(signer.sign_all(&texts, denial)?) {
        zones.add(&zone.apex, &text)?;
    }
    let references = references(&zones)?;
    if references.is_empty() {
        skipped("neither NSD nor Knot can be had");
        return Ok(());
    }
    let ours = ours(&zones)?;
    let mut questions = Vec::new();
    for zone in &unsigned {
        questions.extend(questions_of(zone)?);
    }
    let apexes: HashSet<&str> = unsigned.iter().map(|zone| zone.apex.as_str()).collect();
    let mut score = Score::default();
    for batch in questions.chunks(BATCH) {
        score.compare(batch, &references, &ours, &apexes)?;
    }
    println!("{} zones with {denial:?}: {score}", zones.len());
    let validated = delv::validate(&signer, &texts, &questions, &references, &ours);
    ensure!(score.wrong == 0, "{} answers differ from NSD's and Knot's", score.wrong);
    validated
}

/// Zones to sign.
fn sample(denial: Denial) -> Result<Vec<Unsigned>> {
    let mut sample = Vec::new();
    for (at, case) in ferret::cases()?.unwrap_or_default().into_iter().enumerate() {
        // Cases in which a name does not exist are few.
        if at % ONE_OF == 0 || case.rcode != "NOERROR" {
            let apex = case.apex();
            sample.push(Unsigned { apex, text: case.zone, names: vec![case.qname] });
        }
    }
    for zone in cases::zones()? {
        let longest = records(&zone.text)?.iter().map(|record| record.owner().len()).max();
        if denial == Denial::Nsec3 && longest > Some(NSD_HASHES_AT_MOST) {
            continue;
        }
        sample.push(Unsigned { apex: zone.apex, text: zone.text, names: Vec::new() });
    }
    Ok(sample)
}

fn questions_of(zone: &Unsigned) -> Result<Vec<Question>> {
    let apex: Name<Bytes> = zone.apex.parse()?;
    let mut names = BTreeSet::new();
    for name in &zone.names {
        names.insert(name.parse::<Name<Bytes>>()?);
    }
    for record in records(&zone.text)? {
        // With the names between it and the zone's, which need not have records.
        let owner = record.owner();
        names.extend(
            owner.iter_suffixes().filter(|name| name.ends_with(&apex)).map(|name| name.to_bytes()),
        );
    }
    let mut questions = Vec::new();
    let mut ask = |name: &Name<Bytes>, rtype| {
        questions.push(Question { name: name.clone(), rtype, dnssec: true });
    };
    let mut random = StdRng::seed_from_u64(5);
    let mut mutations = BTreeSet::new();
    for name in &names {
        TYPES.iter().for_each(|rtype| ask(name, *rtype));
        let text = name.to_string();
        let parent = text.split_once('.').map_or("", |(_, parent)| parent);
        let letter = char::from(random.random_range(b'a'..=b'z'));
        let mut made =
            vec![format!("{letter}.{text}"), format!("a.{letter}.{text}"), format!("*.{text}")];
        if *name != apex {
            // A neighbour after it, one before it, and one anywhere.
            let label = &text[..text.len() - parent.len() - 1];
            made.push(format!("{label}0.{parent}"));
            made.push(format!("{}.{parent}", &label[..label.len() - 1]));
            made.push(format!("{letter}{letter}.{parent}"));
        }
        // Some are too long or have an empty label, and some exist.
        let made = made.iter().filter_map(|name| name.parse::<Name<Bytes>>().ok());
        mutations.extend(made.filter(|made| !names.contains(made)));
    }
    for name in &mutations {
        TYPES_OF_MUTATIONS.iter().for_each(|rtype| ask(name, *rtype));
    }
    Ok(questions)
}

#[derive(Default)]
struct Score {
    asked: usize,
    /// NSD and Knot do not agree: either will do.
    disputed: usize,
    truncated: usize,
    /// Aliases without an end, which each server follows as far as it likes.
    endless: usize,
    wrong: usize,
    /// One difference a zone is shown.
    shown: HashSet<String>,
    kinds: BTreeMap<&'static str, usize>,
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Score { asked, disputed, truncated, endless, wrong, kinds, .. } = self;
        write!(
            f,
            "{asked} questions, {wrong} answered wrong; NSD and Knot differ in {disputed}; \
             {truncated} truncated; {endless} with endless aliases; {kinds:?}"
        )
    }
}

impl Score {
    fn compare(
        &mut self,
        questions: &[Question],
        references: &[Contestant],
        ours: &Contestant,
        apexes: &HashSet<&str>,
    ) -> Result<()> {
        let from = |server: &Contestant| {
            let answers = ask_all(server.address, questions).context(server.name)?;
            let parsed = questions.iter().zip(&answers).map(|(question, bytes)| {
                Answer::parse(question, bytes)
                    .with_context(|| format!("{} to {question}", server.name))
            });
            anyhow::Ok(parsed.collect::<Vec<Result<Answer>>>())
        };
        let wanted = references.iter().map(from).collect::<Result<Vec<_>>>()?;
        let got = from(ours)?;
        for (at, question) in questions.iter().enumerate() {
            self.asked += 1;
            let mut good = Vec::new();
            for answers in &wanted {
                good.push(answers[at].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?);
            }
            *self.kinds.entry(kind(good[0])).or_default() += 1;
            let dispute = good.windows(2).any(|pair| {
                body(pair[0], apexes) != body(pair[1], apexes) || glue(pair[0]) != glue(pair[1])
            });
            if dispute {
                self.disputed += 1;
            }
            let show = |title: &str| {
                println!("{title}: {question}");
                for (server, answer) in references.iter().zip(&good) {
                    println!("    {}: {}", server.name, answer.describe());
                }
            };
            let right = match &got[at] {
                Ok(got) if got.truncated => {
                    self.truncated += 1;
                    good.iter().any(|good| good.length + COMPRESSION > OURS_AT_MOST)
                }
                Ok(got) if endless(&good, got) => {
                    self.endless += 1;
                    true
                }
                Ok(got) => {
                    got.doubled.is_none()
                        && good.iter().any(|good| body(good, apexes) == body(got, apexes))
                        && good.iter().any(|good| glue(good) == glue(got))
                }
                Err(_) => false,
            };
            if !right {
                self.wrong += 1;
                let text = question.name.to_string();
                let zone = text.rsplit('.').next().unwrap_or_default().to_owned();
                if self.shown.len() < SHOWN && self.shown.insert(zone) {
                    show("wrong");
                    match &got[at] {
                        Ok(got) => println!("    ours: {}", got.describe()),
                        Err(error) => println!("    ours: {error:#}"),
                    }
                }
            }
        }
        Ok(())
    }
}

/// What must be the same, apart from glue. Only some servers add the zone's own NS records where
/// nobody needs them.
fn body(
    answer: &Answer,
    apexes: &HashSet<&str>,
) -> (Rcode, bool, BTreeSet<String>, BTreeSet<String>) {
    let needless = |record: &&Shown| {
        !(record.is_or_covers(Rtype::NS)
            && apexes.contains(record.owner.as_str())
            && !answer.answer.is_empty())
    };
    (
        answer.rcode,
        answer.authoritative,
        answer.answer.iter().map(Shown::with_ttl).collect(),
        answer.authority.iter().filter(needless).map(Shown::with_ttl).collect(),
    )
}

/// Whether two references follow aliases to different depths, and `got` at least as far as one of them
/// but not forever.
fn endless(good: &[&Answer], got: &Answer) -> bool {
    let [one, other] = good else { return false };
    let fewer = if one.answer.len() < other.answer.len() { one } else { other };
    let texts = |answer: &Answer| -> BTreeSet<String> {
        answer.answer.iter().map(Shown::with_ttl).collect()
    };
    let alias = |record: &Shown| record.rtype == Rtype::CNAME || record.is_or_covers(Rtype::DNAME);
    texts(one) != texts(other)
        && (one.rcode, one.authority.is_empty()) == (other.rcode, other.authority.is_empty())
        && [one, other].iter().all(|answer| answer.answer.iter().all(alias))
        && (got.rcode, got.authority.is_empty()) == (fewer.rcode, fewer.authority.is_empty())
        && got.answer.iter().all(alias)
        && got.doubled.is_none()
        && texts(got).is_superset(&texts(fewer))
        && got.answer.len() <= ALIASES_AT_MOST
}

/// Addresses of name servers inside what is delegated: without them nobody could follow.
fn glue(answer: &Answer) -> BTreeSet<String> {
    if !answer.is_referral() {
        return BTreeSet::new();
    }
    let cuts: Vec<&str> = answer
        .authority
        .iter()
        .filter(|record| record.rtype == Rtype::NS)
        .map(|record| record.owner.as_str())
        .collect();
    let inside = |record: &&Shown| {
        matches!(record.rtype, Rtype::A | Rtype::AAAA)
            && cuts.iter().any(|cut| {
                record
                    .owner
                    .strip_suffix(cut)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    };
    answer.additional.iter().filter(inside).map(Shown::with_ttl).collect()
}

/// What kind of answer it is: shows that all kinds are asked for.
fn kind(answer: &Answer) -> &'static str {
    match () {
        () if answer.rcode == Rcode::NXDOMAIN => "NXDOMAIN",
        () if answer.rcode != Rcode::NOERROR => "error",
        () if !answer.answer.is_empty() => "records",
        () if answer.is_referral() => "delegation",
        () => "NODATA",
    }
}

//! Verdicts in sentences for a domain's owner: what was seen where, and what to do. Pure.

use sealpost_tunnel::{DomainName, Fingerprint};

use super::record::{self, Reading};
use super::witness::{Answer, Statement, Vote};

/// Sentences name so many witnesses at most.
const NAMED: usize = 3;
/// Longest reason in characters; the names of servers in it are strangers' choice.
const MAX_REASON: usize = 900;

/// What all sentences speak about.
#[derive(Clone, Copy)]
pub(super) struct Reason<'a> {
    pub(super) domain: &'a DomainName,
    pub(super) wanted: Fingerprint,
    pub(super) statements: &'a [Statement],
}

impl Reason<'_> {
    /// No server has the record: what is there instead.
    pub(super) fn absent(self) -> String {
        let name = self.name();
        let cure = format!("Publish at {name}: TXT \"{}\"", record::text(self.wanted));
        let readings = || {
            self.statements.iter().flat_map(|s| match &s.answer {
                Answer::Found { records, .. } => records.as_slice(),
                _ => &[],
            })
        };
        if self.statements.iter().any(|s| s.answer == Answer::Elsewhere) {
            return shortened(format!(
                "{name} is an alias (CNAME) or delegated to other name servers, and what stands \
                 there is not the domain's own word. Take that away. {cure}"
            ));
        }
        let fault = readings().find_map(|reading| match reading {
            Reading::Faulty(fault) => Some(fault),
            _ => None,
        });
        if let Some(fault) = fault {
            return shortened(format!("A record at {name} {fault}. {cure}"));
        }
        let other = readings().find_map(|reading| match reading {
            Reading::Box(fingerprint) if *fingerprint != self.wanted => Some(fingerprint),
            _ => None,
        });
        shortened(match other {
            Some(other) => format!(
                "The record at {name} names another box (fingerprint {other}). If the mail of {} \
                 belongs to this box, replace it. {cure}",
                self.domain
            ),
            None => format!(
                "There is no record for this box at {name}, say {}. {cure}",
                self.those(true, |vote| vote == Vote::No)
            ),
        })
    }

    /// No server is known, or none answered.
    pub(super) fn no_server(self) -> String {
        let domain = self.domain;
        if self.statements.iter().any(Statement::is_server) {
            return shortened(format!(
                "None of the name servers of {domain} gave an answer ({}). Make them answer; then \
                 try again.",
                self.silence(true)
            ));
        }
        let silence = self.silence(false);
        let why = if silence.is_empty() { "the resolvers disagree".into() } else { silence };
        shortened(format!(
            "The name servers of {domain} could not be found ({why}). See whether the domain is \
             registered and delegated; then try again later."
        ))
    }

    /// Some servers have the record, some have not.
    pub(super) fn not_in_step(self) -> String {
        shortened(format!(
            "The name servers of {} do not agree: {} answered with the record for this box, {} \
             without it. Wait until all have the same zone, and try again in a minute.",
            self.domain,
            self.those(true, |vote| vote == Vote::Yes),
            self.those(true, |vote| vote == Vote::No)
        ))
    }

    /// The servers that answered all voted `by_servers`, but not enough resolvers do.
    pub(super) fn no_majority(self, by_servers: Vote) -> String {
        let (contrary, has) = match by_servers {
            Vote::Yes => (Vote::No, "have"),
            _ => (Vote::Yes, "do not have"),
        };
        let bogus = self.those(false, |vote| vote == Vote::Bogus);
        let against = self.those(false, |vote| vote == contrary);
        let signed =
            self.statements.iter().any(|s| s.vote(self.wanted) == contrary && s.is_secure());
        let but = if !bogus.is_empty() {
            format!(
                "the answer's signatures (DNSSEC) are invalid or missing as {bogus} got it. Repair \
                 the zone's signatures, or take away the DS record; then try again."
            )
        } else if against.is_empty() {
            format!(
                "too few of the relay's resolvers answered ({}). Try again later.",
                self.silence(false)
            )
        } else if signed {
            format!(
                "{against} got the contrary with valid signatures. The name servers are not in \
                 step with what was signed, or an older answer is still remembered: try again in \
                 an hour."
            )
        } else {
            format!(
                "{against} still gives an older answer. It will be forgotten: try again in an hour."
            )
        };
        shortened(format!("The name servers of {} {has} the record, but {but}", self.domain))
    }

    fn name(self) -> String {
        format!("{}.{}", record::LABEL, self.domain)
    }

    /// The servers, or the resolvers, whose vote is of a kind.
    fn those(self, servers: bool, of: impl Fn(Vote) -> bool) -> String {
        let of_kind = |s: &&Statement| s.is_server() == servers && of(s.vote(self.wanted));
        listed(self.statements.iter().filter(of_kind).map(|s| s.source.to_string()))
    }

    /// Why the servers, or the resolvers, did not answer.
    fn silence(self, servers: bool) -> String {
        let of_kind = self.statements.iter().filter(|s| s.is_server() == servers);
        listed(of_kind.filter_map(|s| match &s.answer {
            Answer::Silent(why) => Some(format!("{}: {why}", s.source)),
            _ => None,
        }))
    }
}

/// "a, b, c and 2 more".
fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let more = items.len().saturating_sub(NAMED);
    let text = items[..items.len() - more].join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::witness::Source;

    #[test]
    fn reasons_stay_short_whatever_strangers_name_their_servers() {
        let domain = "home.example".parse().unwrap();
        let wanted = "IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI".parse().unwrap();
        let server = |name: &str, i| Statement {
            source: Source::Server { name: name.into(), address: [192, 0, 2, i].into() },
            answer: Answer::NoRecord { secure: false },
        };
        let long: Vec<Statement> = (0..8).map(|i| server(&"ä.".repeat(200), i)).collect();
        let reason = Reason { domain: &domain, wanted, statements: &long };
        assert_eq!(reason.absent().chars().count(), MAX_REASON + 1);
        let many: Vec<Statement> = (0..8).map(|i| server("ns", i)).collect();
        let reason = Reason { domain: &domain, wanted, statements: &many };
        assert!(
            reason.absent().contains("ns (192.0.2.2) and 5 more. Publish"),
            "{}",
            reason.absent()
        );
    }
}

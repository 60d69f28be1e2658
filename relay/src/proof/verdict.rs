//! From what name servers and resolvers said to one verdict. Pure.
//!
//! Two kinds of witnesses must agree: the domain's own name servers, which know what is there now,
//! and the resolvers, which lead to those name servers and whose answers are checked for
//! signatures. One resolver of three that lies or fails changes no verdict. Whatever does not
//! agree is unclear, which is no proof for a claim and no end of one.

use sealpost_tunnel::{DomainName, Fingerprint};

use super::reason::Reason;
use super::witness::{Statement, Vote};

/// Whether a domain names a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Found,
    /// It does not; what was seen instead, and what to do.
    Absent(String),
    /// That could not be found out; why, and what to do.
    Unclear(String),
}

/// The verdict on whether `domain` names the box with the key `wanted`, by the statements of all
/// that were asked, those that did not answer included. Their order does not matter to it.
pub fn judge(domain: &DomainName, wanted: Fingerprint, statements: &[Statement]) -> Verdict {
    let reason = Reason { domain, wanted, statements };
    let (servers, resolvers) = tallies(wanted, statements);
    match (servers.yes, servers.no) {
        (0, 0) => Verdict::Unclear(reason.no_server()),
        (0, _) if resolvers.agree(resolvers.no) => Verdict::Absent(reason.absent()),
        (_, 0) if resolvers.agree(resolvers.yes) => Verdict::Found,
        (0, _) => Verdict::Unclear(reason.no_majority(Vote::No)),
        (_, 0) => Verdict::Unclear(reason.no_majority(Vote::Yes)),
        _ => Verdict::Unclear(reason.not_in_step()),
    }
}

/// Why the resolvers need not be asked about a claim: the domain's name servers, which are asked
/// before them, do not all have the record.
pub fn hopeless(
    domain: &DomainName,
    wanted: Fingerprint,
    statements: &[Statement],
) -> Option<String> {
    let reason = Reason { domain, wanted, statements };
    let (servers, _) = tallies(wanted, statements);
    match (servers.yes, servers.no) {
        (0, 0) => Some(reason.no_server()),
        (0, _) => Some(reason.absent()),
        (_, 0) => None,
        _ => Some(reason.not_in_step()),
    }
}

/// How many said what.
#[derive(Default)]
struct Tally {
    asked: usize,
    yes: usize,
    no: usize,
    bogus: usize,
}

impl Tally {
    /// Whether `votes` are more than half of those that answered, and at least half answered.
    fn agree(&self, votes: usize) -> bool {
        let answered = self.yes + self.no + self.bogus;
        2 * votes > answered && 2 * answered >= self.asked
    }
}

/// Of the servers, and of the resolvers.
fn tallies(wanted: Fingerprint, statements: &[Statement]) -> (Tally, Tally) {
    let (mut servers, mut resolvers) = (Tally::default(), Tally::default());
    for statement in statements {
        let tally = if statement.is_server() { &mut servers } else { &mut resolvers };
        tally.asked += 1;
        match statement.vote(wanted) {
            Vote::Yes => tally.yes += 1,
            Vote::No => tally.no += 1,
            Vote::Bogus => tally.bogus += 1,
            Vote::Silent => {}
        }
    }
    (servers, resolvers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::record::{Fault, Reading};
    use crate::proof::witness::{Answer, Source};
    use proptest::prelude::*;

    fn wanted() -> Fingerprint {
        "IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI".parse().unwrap()
    }

    fn other() -> Fingerprint {
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap()
    }

    fn yes() -> Answer {
        let records = vec![Reading::Foreign, Reading::Box(wanted()), Reading::Box(other())];
        Answer::Found { records, secure: false }
    }

    fn no() -> Answer {
        Answer::NoRecord { secure: false }
    }

    fn silent() -> Answer {
        Answer::Silent("no answer within 3 s".into())
    }

    fn statements(servers: &[Answer], resolvers: &[Answer]) -> Vec<Statement> {
        let server = |(i, answer): (usize, &Answer)| Statement {
            source: Source::Server {
                name: format!("ns{i}.example"),
                address: [192, 0, 2, i as u8].into(),
            },
            answer: answer.clone(),
        };
        let resolver = |(i, answer): (usize, &Answer)| Statement {
            source: Source::Resolver(([198, 51, 100, i as u8], 53).into()),
            answer: answer.clone(),
        };
        let servers = servers.iter().enumerate().map(server);
        servers.chain(resolvers.iter().enumerate().map(resolver)).collect()
    }

    fn verdict(servers: &[Answer], resolvers: &[Answer]) -> Verdict {
        judge(&"home.example".parse().unwrap(), wanted(), &statements(servers, resolvers))
    }

    fn unclear(servers: &[Answer], resolvers: &[Answer]) -> String {
        match verdict(servers, resolvers) {
            Verdict::Unclear(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn absent(servers: &[Answer], resolvers: &[Answer]) -> String {
        match verdict(servers, resolvers) {
            Verdict::Absent(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_that_agree_are_believed() {
        assert_eq!(verdict(&[yes(), yes()], &[yes()]), Verdict::Found);
        let reason = absent(&[no(), no()], &[no()]);
        assert!(reason.contains("ns0.example (192.0.2.0), ns1.example"), "{reason}");
        assert!(reason.contains("_sealpost.home.example: TXT \"sealpost1 box=IWo"), "{reason}");
    }

    #[test]
    fn what_stands_there_instead_is_said() {
        let found = |reading| Answer::Found { records: vec![reading], secure: true };
        for (answer, expected) in [
            (found(Reading::Foreign), "no record for this box"),
            (found(Reading::Box(other())), "names another box (fingerprint AAAA"),
            (found(Reading::Faulty(Fault::Quoted)), "has quotation marks in its text"),
            (Answer::Elsewhere, "is an alias (CNAME)"),
        ] {
            let answers = [answer];
            let reason = absent(&answers, &answers);
            assert!(reason.contains(expected) && reason.contains("Publish at "), "{reason}");
        }
    }

    #[test]
    fn name_servers_that_disagree_are_named() {
        let reason = unclear(&[yes(), no()], &[yes(), yes(), yes()]);
        assert!(reason.contains("ns0.example (192.0.2.0) answered with"), "{reason}");
        assert!(reason.contains("ns1.example (192.0.2.1) without"), "{reason}");
    }

    #[test]
    fn silence_of_all_servers_or_of_too_many_resolvers_is_unclear() {
        let reason = unclear(&[silent()], &[yes(), yes(), yes()]);
        assert!(reason.contains("no answer within 3 s"), "{reason}");
        let reason = unclear(&[], &[silent(), silent()]);
        assert!(
            reason.contains("could not be found (resolver 198.51.100.0: no answer"),
            "{reason}"
        );
        assert!(unclear(&[], &[]).contains("resolvers disagree"));
        for told in [yes(), no()] {
            let reason =
                unclear(&[told.clone(), told.clone()], &[told.clone(), silent(), silent()]);
            assert!(reason.contains("too few"), "{reason}");
            unclear(&[told], &[]);
        }
        // One of two has to do, as many machines know but two resolvers.
        assert_eq!(verdict(&[yes()], &[yes(), silent()]), Verdict::Found);
    }

    #[test]
    fn an_older_answer_and_a_broken_signature_are_told_apart() {
        let reason = unclear(&[yes()], &[no(), no(), yes()]);
        assert!(reason.contains("resolver 198.51.100.0, resolver 198.51.100.1 still"), "{reason}");
        let secure = Answer::NoRecord { secure: true };
        let reason = unclear(&[yes()], &[secure.clone(), secure]);
        assert!(reason.contains("the contrary with valid signatures"), "{reason}");
        let reason = unclear(&[yes()], &[Answer::Bogus]);
        assert!(reason.contains("DNSSEC"), "{reason}");
        unclear(&[no()], &[Answer::Bogus]);
    }

    #[test]
    fn a_claim_is_hopeless_until_all_servers_have_the_record() {
        let hopeless = |servers: &[Answer]| {
            hopeless(&"home.example".parse().unwrap(), wanted(), &statements(servers, &[]))
        };
        assert_eq!(hopeless(&[yes()]), None);
        assert_eq!(hopeless(&[yes(), silent()]), None);
        assert!(hopeless(&[yes(), no()]).unwrap().contains("do not agree"));
        assert!(hopeless(&[no(), silent()]).unwrap().contains("Publish at"));
        assert!(hopeless(&[silent()]).unwrap().contains("None of the name servers"));
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            3 => Just(yes()),
            3 => Just(no()),
            1 => Just(Answer::Elsewhere),
            1 => Just(Answer::Bogus),
            1 => Just(silent()),
            1 => Just(Answer::Found { records: vec![Reading::Box(other())], secure: true }),
        ]
    }

    fn answers(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Answer>> {
        prop::collection::vec(answer(), count)
    }

    proptest! {
        #[test]
        fn nothing_is_found_or_absent_without_both_kinds_of_witnesses(
            servers in answers(0..5), resolvers in answers(0..5),
        ) {
            let count = |of: &[Answer], what: &Answer| of.iter().filter(|a| *a == what).count();
            match verdict(&servers, &resolvers) {
                Verdict::Found => {
                    prop_assert!(servers.contains(&yes()));
                    let said = servers.iter().filter(|a| !matches!(a, Answer::Silent(_) | Answer::Bogus));
                    prop_assert!(said.clone().all(|a| *a == yes()));
                    let answered = resolvers.len() - count(&resolvers, &silent());
                    prop_assert!(2 * count(&resolvers, &yes()) > answered);
                }
                Verdict::Absent(_) => {
                    prop_assert!(!servers.contains(&yes()));
                    prop_assert!(!servers.is_empty() && !resolvers.is_empty());
                    prop_assert!(count(&resolvers, &yes()) * 2 < resolvers.len());
                }
                Verdict::Unclear(reason) => prop_assert!(reason.len() > 40),
            }
        }

        #[test]
        fn one_of_three_resolvers_changes_no_verdict(
            servers in answers(1..4), truth in prop_oneof![Just(yes()), Just(no())], liar in answer(),
        ) {
            let honest = verdict(&servers, &[truth.clone(), truth.clone(), truth.clone()]);
            let lied = verdict(&servers, &[truth.clone(), liar, truth]);
            prop_assert_eq!(std::mem::discriminant(&honest), std::mem::discriminant(&lied));
        }

        #[test]
        fn order_does_not_matter(
            servers in answers(0..4), resolvers in answers(0..4), seed in any::<u64>(),
        ) {
            let mut all = statements(&servers, &resolvers);
            let domain = "home.example".parse().unwrap();
            let one = judge(&domain, wanted(), &all);
            let middle = usize::try_from(seed % 7).unwrap().min(all.len());
            all.rotate_left(middle);
            all.reverse();
            let two = judge(&domain, wanted(), &all);
            prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&two));
        }
    }
}

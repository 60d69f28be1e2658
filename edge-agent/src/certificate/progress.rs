//! What is to be done next for the certificate. Pure: memory and time in, one step out.
//!
//! A new key is in the zone long before the mail server shows it, and an old one stays until well
//! after; the rules for that are [`crate::zone::certificate_roll`]'s.

use std::time::Duration;

use crate::zone::certificate_roll::{self, NotYet};

use super::memory::{Current, Issued, Memory, Next};
use super::renewal;
use super::servers::Found;
use super::settings::Algorithm;

/// Between two certificates that are ordered only because the names changed: names come one after
/// the other when a box meets its relays, and CAs count certificates.
const BETWEEN: u64 = 3600;
/// When there is nothing to do, it is looked again after this time.
const LONGEST_REST: u64 = 24 * 3600;

/// What the owner's file and the zones say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The names for the certificate, sorted.
    pub names: Vec<String>,
    /// The CA's directory.
    pub directory: String,
    /// The kind of key.
    pub algorithm: Algorithm,
    /// Added to each wait for resolvers, in seconds.
    pub margin: u64,
    /// How long a name server that does not answer is waited for, in seconds.
    pub pass_over: u64,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make a pair of keys and put it into the zone.
    Prepare,
    /// Ask the name servers whether they serve the next key.
    Ask,
    /// Have a certificate issued for the next pair.
    Obtain,
    /// Give it to the mail server.
    Install,
    /// See what the mail server shows.
    Look,
    /// Ask the CA when to renew.
    Poll,
    /// Nothing before this time, in seconds since 1970.
    Rest(u64),
}

/// What to do at `now`.
pub fn step(memory: &Memory, wanted: &Wanted, now: u64) -> Step {
    if wanted.names.is_empty() {
        return Step::Rest(now + LONGEST_REST);
    }
    let fits = |it: &&Next| it.issued.is_some() || it.algorithm == wanted.algorithm;
    let Some(next) = memory.next.as_ref().filter(fits) else { return Step::Prepare };
    let mut times = vec![now + LONGEST_REST];
    if issued(next, wanted).is_some() {
        match may_use(memory, next, wanted, now) {
            Ok(()) if now >= next.ask_at || next.asked == 0 => return Step::Install,
            Ok(()) => times.push(next.ask_at),
            Err(NotYet::Cached(left) | NotYet::Silent(left)) => times.push(now + left.as_secs()),
            Err(NotYet::Spreading) => {}
        }
    }
    if let Some(current) = &memory.current {
        match look_at(memory, current, wanted.margin) {
            Some(at) if now >= at => return Step::Look,
            at => times.extend(at),
        }
    }
    if next.since.is_none() {
        if now >= next.ask_at {
            return Step::Ask;
        }
        times.push(next.ask_at);
    }
    match obtain_at(memory, next, wanted) {
        Some(at) if now >= at => return Step::Obtain,
        at => times.extend(at),
    }
    match memory.current.as_ref().and_then(|current| current.poll_at) {
        Some(at) if now >= at => return Step::Poll,
        at => times.extend(at),
    }
    Step::Rest(times.into_iter().min().unwrap_or(now))
}

/// Forgets times that a clock noted which was ahead then: what was put off by minutes would wait until
/// the time that it showed.
pub fn heed_clock(memory: &mut Memory, now: u64) {
    let soon = now.saturating_add(renewal::look_again(u32::MAX));
    if let Some(next) = &mut memory.next {
        for since in [&mut next.since, &mut next.answering] {
            *since = since.map(|since| since.min(now));
        }
        next.ask_at = next.ask_at.min(soon);
    }
    if let Some(current) = &mut memory.current {
        let poll = now.saturating_add(renewal::poll_again(Some(Duration::MAX)));
        current.poll_at = current.poll_at.map(|at| at.min(poll));
        current.look_at = current.look_at.min(soon);
        current.reloaded_at = current.reloaded_at.min(now);
        current.shown_since = current.shown_since.map(|since| since.min(now));
    }
    memory.issued_at = memory.issued_at.map(|at| at.min(now));
    if let Some(trouble) = memory.trouble.as_mut().filter(|trouble| trouble.at > now) {
        let wait = renewal::order_again(trouble.failures, None, 0.0);
        (trouble.at, trouble.until) = (now, now.saturating_add(wait));
    }
}

/// The certificate for the next pair, if it has all names and is the wanted CA's.
pub fn issued<'a>(next: &'a Next, wanted: &Wanted) -> Option<&'a Issued> {
    next.issued.as_ref().filter(|it| covers(it, wanted))
}

fn covers(issued: &Issued, wanted: &Wanted) -> bool {
    issued.directory == wanted.directory
        && wanted.names.iter().all(|name| issued.names.contains(name))
}

/// Whether the mail server may show the next key: as every name server has it for long enough, or all
/// that answer for longer.
pub fn may_use(memory: &Memory, next: &Next, wanted: &Wanted, now: u64) -> Result<(), NotYet> {
    let everywhere = certificate_roll::may_use(next.since, next.kept, wanted.margin, now);
    let ends = memory.current.as_ref().map(|current| current.issued.not_after);
    let pass_over = wanted.pass_over;
    let answering = next.answering;
    let others =
        certificate_roll::may_pass_over(answering, next.kept, wanted.margin, pass_over, ends, now);
    match (everywhere, others) {
        (Ok(()), _) | (_, Ok(())) => Ok(()),
        (Err(NotYet::Spreading), Err(why)) => Err(why),
        // That all have it is never seen before those that answer have it.
        (Err(why), Err(_)) => Err(why),
    }
}

/// Takes in what the name servers said of the next key at `now`. `refused` is that the zone cannot be
/// made anew just now, in which case what they serve is not what is wanted.
///
/// Silence takes nothing back that was seen at the others, and neither does a box that reaches nobody.
/// An answer without the record does: whoever asks there learns that it is not there.
pub fn asked(next: &mut Next, found: &Found, refused: bool, now: u64) {
    let first = |since: Option<u64>| since.filter(|since| *since <= now).or(Some(now));
    next.kept = next.kept.max(found.ttl);
    let answering = next.answering.or(next.since);
    next.answering = match (found.lacking.is_empty(), found.answered) {
        (false, _) => None,
        (true, true) => first(answering),
        (true, false) => answering,
    };
    if found.everywhere() && !refused {
        next.since = first(next.since);
        (next.asked, next.ask_at) = (0, now);
    } else {
        next.since = None;
        next.ask_at = now + renewal::look_again(next.asked);
        next.asked = next.asked.saturating_add(1);
    }
}

/// When to order a certificate for the next pair, if it needs one.
fn obtain_at(memory: &Memory, next: &Next, wanted: &Wanted) -> Option<u64> {
    if issued(next, wanted).is_some() {
        return None;
    }
    let due = match &memory.current {
        _ if memory.forced => 0,
        None => 0,
        Some(current) if current.issued.directory != wanted.directory => 0,
        Some(current) if !covers(&current.issued, wanted) => {
            memory.issued_at.map_or(0, |at| at + BETWEEN)
        }
        Some(current) => current.renew_at,
    };
    // A certificate that was issued and lacks a name that came since.
    let due = match (&next.issued, memory.issued_at) {
        (Some(_), Some(at)) => due.max(at + BETWEEN),
        _ => due,
    };
    let barred = memory.trouble.as_ref();
    let barred = barred.filter(|it| it.by_ca || !memory.forced).map_or(0, |it| it.until);
    Some(due.max(barred))
}

/// When to look at the mail server again: until it was seen to show the new key alone, and once
/// more when the records of the old keys are to go.
fn look_at(memory: &Memory, current: &Current, margin: u64) -> Option<u64> {
    match current.shown_since {
        None => Some(current.look_at),
        Some(_) if memory.retiring.is_empty() => None,
        Some(since) => Some(drop_at(memory, since, margin).max(current.look_at)),
    }
}

/// When the records of all retiring keys may go, if the mail server shows others since `since`.
fn drop_at(memory: &Memory, since: u64, margin: u64) -> u64 {
    let kept = memory.retiring.iter().map(|it| u64::from(it.kept)).max();
    since.saturating_add(kept.unwrap_or(0)).saturating_add(margin)
}

/// Takes in that at `now` the mail server showed the current key and none of those before it
/// (`right`), or something else. Returns whether the old keys' records may go.
pub fn looked(memory: &mut Memory, right: bool, margin: u64, now: u64) -> bool {
    let Some(mut current) = memory.current.take() else { return false };
    let mut done = false;
    if right {
        current.looked = 0;
        // A clock that was set back begins the wait again.
        let since = current.shown_since.filter(|since| *since <= now).unwrap_or(now);
        current.shown_since = Some(since);
        current.look_at = now;
        done = now >= drop_at(memory, since, margin);
    } else {
        current.shown_since = None;
        current.look_at = now + renewal::look_again(current.looked);
        current.looked = current.looked.saturating_add(1);
    }
    memory.current = Some(current);
    if done {
        memory.retiring.clear();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::memory::{Retiring, Trouble};

    const NOW: u64 = 1_790_000_000;
    const MARGIN: u64 = 300;
    const DAY: u64 = 86_400;

    fn wanted() -> Wanted {
        Wanted {
            names: vec!["mx.a.example".into()],
            directory: "https://ca.example/".into(),
            algorithm: Algorithm::EcdsaP256,
            margin: MARGIN,
            pass_over: DAY,
        }
    }

    fn certificate() -> Issued {
        Issued {
            names: wanted().names,
            not_before: NOW,
            not_after: NOW + 90 * 86_400,
            renewal_id: None,
            directory: wanted().directory,
        }
    }

    fn next() -> Next {
        Next {
            key: [2; 32],
            algorithm: Algorithm::EcdsaP256,
            since: None,
            answering: None,
            kept: 3600,
            ask_at: 0,
            asked: 0,
            issued: None,
        }
    }

    fn current() -> Current {
        Current {
            key: [1; 32],
            issued: certificate(),
            kept: 3600,
            renew_at: NOW + 60 * 86_400,
            poll_at: None,
            shown_since: Some(NOW),
            look_at: NOW,
            looked: 0,
            reloaded_at: NOW,
        }
    }

    #[test]
    fn the_first_certificate_comes_step_by_step() {
        let (mut memory, wanted) = (Memory::default(), wanted());
        let nothing = Wanted { names: vec![], ..wanted.clone() };
        assert_eq!(step(&memory, &nothing, NOW), Step::Rest(NOW + LONGEST_REST));
        assert_eq!(step(&memory, &wanted, NOW), Step::Prepare);
        memory.next = Some(next());
        assert_eq!(step(&memory, &wanted, NOW), Step::Ask);
        // The order does not wait for name servers that lag.
        memory.next = Some(Next { ask_at: NOW + 60, asked: 1, ..next() });
        assert_eq!(step(&memory, &wanted, NOW), Step::Obtain);
        let issued = Some(certificate());
        memory.next = Some(Next { ask_at: NOW + 60, asked: 1, issued, ..next() });
        assert_eq!(step(&memory, &wanted, NOW), Step::Rest(NOW + 60));
        assert_eq!(step(&memory, &wanted, NOW + 60), Step::Ask);
        let seen = Next { since: Some(NOW), issued: Some(certificate()), ..next() };
        memory.next = Some(seen.clone());
        assert_eq!(step(&memory, &wanted, NOW), Step::Rest(NOW + 3900));
        assert_eq!(step(&memory, &wanted, NOW + 3900), Step::Install);
        // A name server that lost the record again puts it off.
        memory.next = Some(Next { since: None, asked: 1, ask_at: NOW + 4000, ..seen });
        assert_eq!(step(&memory, &wanted, NOW + 3900), Step::Rest(NOW + 4000));
    }

    fn found(lacking: bool, silent: bool, answered: bool) -> Found {
        let says = |so: bool| if so { vec!["ns2".to_owned()] } else { Vec::new() };
        Found { lacking: says(lacking), silent: says(silent), answered, ttl: 0 }
    }

    #[test]
    fn a_silent_name_server_delays_an_installation_and_does_not_stop_it() {
        let issued = || Some(certificate());
        let mut memory =
            Memory { next: Some(Next { issued: issued(), ..next() }), ..Memory::default() };
        let hear = |memory: &mut Memory, found: Found, now| {
            asked(memory.next.as_mut().unwrap(), &found, false, now);
        };
        hear(&mut memory, found(false, true, true), NOW);
        assert_eq!(step(&memory, &wanted(), NOW), Step::Rest(NOW + 2));
        assert_eq!(step(&memory, &wanted(), NOW + 2), Step::Ask);
        // Others are seen to have it meanwhile, or nobody is reached: what was seen counts.
        hear(&mut memory, found(false, true, false), NOW + 3900 + DAY - 1);
        assert_eq!(memory.next.as_ref().unwrap().answering, Some(NOW));
        let due = NOW + 3900 + DAY;
        assert!(matches!(step(&memory, &wanted(), due - 1), Step::Rest(_)));
        assert_eq!(step(&memory, &wanted(), due + 3), Step::Install);
        // It comes back: from then on resolvers alone are waited for.
        let mut back = memory.clone();
        hear(&mut back, found(false, false, true), NOW + 1000);
        assert_eq!(step(&back, &wanted(), NOW + 1000 + 3900), Step::Install);
        // It comes back with what is old: all begins anew.
        hear(&mut memory, found(true, false, true), due);
        assert_eq!(memory.next.as_ref().unwrap().answering, None);
        assert!(matches!(step(&memory, &wanted(), due), Step::Rest(_)));
    }

    #[test]
    fn a_key_that_was_prepared_long_ago_needs_no_wait_for_a_server_that_died() {
        let mut memory = Memory {
            next: Some(Next { since: Some(NOW), issued: Some(certificate()), ..next() }),
            current: Some(current()),
            ..Memory::default()
        };
        let later = NOW + 50 * DAY;
        assert_eq!(step(&memory, &wanted(), later), Step::Install);
        asked(memory.next.as_mut().unwrap(), &found(false, true, true), false, later);
        let next = memory.next.as_ref().unwrap();
        assert_eq!(may_use(&memory, next, &wanted(), later), Ok(()));
    }

    #[test]
    fn a_zone_that_cannot_be_made_takes_back_nothing_that_was_seen() {
        let mut next = Next { since: Some(NOW), answering: Some(NOW), ..next() };
        asked(&mut next, &found(false, false, true), true, NOW + 5000);
        assert_eq!((next.since, next.answering), (None, Some(NOW)));
        assert!(next.ask_at > NOW + 5000);
    }

    #[test]
    fn after_it_the_mail_server_is_watched_until_the_old_key_is_gone() {
        let mut memory = Memory {
            next: Some(Next { since: Some(NOW), ..next() }),
            current: Some(Current { shown_since: None, ..current() }),
            retiring: vec![Retiring { key: [0; 32], kept: 600 }],
            ..Memory::default()
        };
        assert_eq!(step(&memory, &wanted(), NOW), Step::Look);
        assert!(!looked(&mut memory, false, MARGIN, NOW));
        assert!(matches!(step(&memory, &wanted(), NOW), Step::Rest(at) if at > NOW));
        assert!(!looked(&mut memory, true, MARGIN, NOW + 100));
        assert_eq!(step(&memory, &wanted(), NOW + 101), Step::Rest(NOW + 1000));
        assert_eq!(step(&memory, &wanted(), NOW + 1000), Step::Look);
        // It shows the old one again: the wait begins anew.
        assert!(!looked(&mut memory, false, MARGIN, NOW + 1000));
        assert!(!looked(&mut memory, true, MARGIN, NOW + 1100));
        assert_eq!(memory.keys().len(), 3);
        assert!(looked(&mut memory, true, MARGIN, NOW + 2000));
        assert_eq!(memory.keys(), [[1; 32], [2; 32]]);
        assert!(matches!(step(&memory, &wanted(), NOW + 2000), Step::Rest(_)));
    }

    #[test]
    fn a_clock_that_was_ahead_puts_nothing_off_for_years() {
        let ahead = NOW + 5000 * 86_400;
        let issued = Some(certificate());
        let trouble =
            Trouble { why: "x".into(), at: ahead, failures: 1, until: ahead + 600, by_ca: true };
        let mut memory = Memory {
            next: Some(Next { since: Some(ahead), ask_at: ahead, asked: 3, issued, ..next() }),
            current: Some(Current { shown_since: None, look_at: ahead, ..current() }),
            retiring: vec![Retiring { key: [0; 32], kept: 600 }],
            issued_at: Some(ahead),
            trouble: Some(trouble),
            ..Memory::default()
        };
        heed_clock(&mut memory, NOW);
        assert_eq!(step(&memory, &wanted(), NOW), Step::Rest(NOW + 600));
        assert_eq!(step(&memory, &wanted(), NOW + 600), Step::Look);
        looked(&mut memory, true, MARGIN, NOW + 600);
        assert_eq!(step(&memory, &wanted(), NOW + 3900), Step::Install);
        memory.next = Some(Next { since: Some(NOW), ..next() });
        memory.forced = true;
        assert_eq!(step(&memory, &wanted(), NOW + 1200), Step::Obtain);
        let same = memory.clone();
        heed_clock(&mut memory, NOW + 1200);
        assert_eq!(memory, same, "times that fit stay");
    }

    #[test]
    fn a_renewal_waits_for_its_time_and_after_failures_longer() {
        let at = NOW + 60 * 86_400;
        let mut memory = Memory {
            next: Some(Next { since: Some(NOW), ..next() }),
            current: Some(current()),
            ..Memory::default()
        };
        assert_eq!(step(&memory, &wanted(), at - 1), Step::Rest(at));
        assert_eq!(step(&memory, &wanted(), at), Step::Obtain);
        memory.forced = true;
        assert_eq!(step(&memory, &wanted(), NOW), Step::Obtain);
        let trouble =
            Trouble { why: "x".into(), at: NOW, failures: 1, until: NOW + 600, by_ca: false };
        memory.trouble = Some(trouble.clone());
        assert_eq!(step(&memory, &wanted(), NOW), Step::Obtain, "the owner does not want to wait");
        memory.trouble = Some(Trouble { by_ca: true, ..trouble });
        assert_eq!(step(&memory, &wanted(), NOW), Step::Rest(NOW + 600), "the CA decides");
        memory.forced = false;
        assert_eq!(step(&memory, &wanted(), at), Step::Obtain);
    }

    #[test]
    fn names_that_come_later_have_a_certificate_after_a_while_and_names_that_go_none() {
        let mut memory = Memory {
            next: Some(Next { since: Some(NOW), ..next() }),
            current: Some(current()),
            issued_at: Some(NOW),
            ..Memory::default()
        };
        let mut wanted = wanted();
        wanted.names.push("mx2.a.example".into());
        assert_eq!(step(&memory, &wanted, NOW + 10), Step::Rest(NOW + BETWEEN));
        assert_eq!(step(&memory, &wanted, NOW + BETWEEN), Step::Obtain);
        memory.next.as_mut().unwrap().issued = Some(certificate());
        memory.issued_at = Some(NOW + BETWEEN);
        assert_eq!(step(&memory, &wanted, NOW + BETWEEN), Step::Rest(NOW + 2 * BETWEEN));
        wanted.names = vec!["mx.a.example".into()];
        assert_eq!(step(&memory, &wanted, NOW + BETWEEN + 300), Step::Install);
        memory.next = Some(Next { since: Some(NOW), ..next() });
        assert!(matches!(step(&memory, &wanted, NOW + 300), Step::Rest(_)));
        // Another CA, another kind of key.
        wanted.directory = "https://other.example/".into();
        assert_eq!(step(&memory, &wanted, NOW + 300), Step::Obtain);
        wanted.algorithm = Algorithm::Rsa2048;
        assert_eq!(step(&memory, &wanted, NOW + 300), Step::Prepare);
    }
}

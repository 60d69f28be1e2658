//! What the world says about a domain beside what it should say, line by line, each with what to do.
//! Pure.
//!
//! Everything that others said passes [`spoken`] on its way to a line.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use domain::base::iana::{Rcode, Rtype};
use domain::rdata::Ds;
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::spoken::spoken;
use serde::Serialize;

use super::registrar::{plain, rdata};
use crate::lookup::delegation::{Server, Unknown};
use crate::lookup::exchange::Silence;
use crate::lookup::survey::{Delegation, Heard, Outcome, Parent, Survey, Zone};
use crate::zone::serial::is_newer;
use crate::zone::zone_key::PublicKey;

/// The longest cell of a line, in characters.
const MAX_CELL: usize = 400;

/// What a domain should say.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The domain.
    pub(super) apex: Name,
    /// What is wanted where its zone is made by this box; `None` when its DNS is elsewhere.
    pub(super) made_here: Option<MadeHere>,
    /// The sets of records that count. Never empty ones.
    pub(super) sets: Vec<Set>,
}

/// Of a zone that is made by this box.
#[derive(Debug, Clone)]
pub(super) struct MadeHere {
    /// The names of its name servers.
    pub(super) name_servers: Vec<Name>,
    /// The keys that the parent zone should name.
    pub(super) announced: Vec<PublicKey>,
    /// The keys that it may name: all that lead to a valid zone.
    pub(super) valid: Vec<PublicKey>,
    /// Its version.
    pub(super) serial: u32,
    /// The list of its keys, where that was signed with its recovery kit.
    pub(super) keys: Option<KeysOfKit>,
}

/// How long a list of keys is good that was signed with a recovery kit.
#[derive(Debug, Clone)]
pub(super) struct KeysOfKit {
    /// The day.
    pub(super) until: String,
    /// What to do, when it is time.
    pub(super) warning: Option<String>,
}

/// All records of one type at one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: Name,
    pub(super) rtype: Rtype,
    pub(super) data: Vec<Data>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// Not so.
    Wrong,
    /// It could not be found out.
    Unknown,
    /// It does not matter.
    Skipped,
}

impl State {
    /// The word for a table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Wrong => "WRONG",
            Self::Unknown => "UNKNOWN",
            Self::Skipped => "-",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) state: State,
    /// Who said it.
    pub(super) place: String,
    pub(super) want: String,
    pub(super) have: String,
    /// What to do; empty when nothing.
    pub(super) advice: String,
    /// Whether it is about what is entered at the registrar.
    pub(super) of_parent: bool,
}

impl Line {
    fn new(state: State, place: &str, want: &str, have: &str, advice: &str) -> Self {
        let cell = |text: &str| spoken(text, MAX_CELL);
        Self {
            state,
            place: cell(place),
            want: cell(want),
            have: cell(have),
            advice: advice.to_owned(),
            of_parent: false,
        }
    }
}

/// Whether all is as it should be.
pub(super) fn all_well(lines: &[Line]) -> bool {
    lines.iter().all(|line| matches!(line.state, State::Ok | State::Skipped))
}

/// The sets of `records` that mail and its proofs depend on: at the domain, at the names of its
/// exchangers, the proof, and policies.
pub(super) fn important(apex: &Name, records: &[Record]) -> Vec<Set> {
    let below = |prefix: &str, name: &Name| format!("{prefix}{name}").parse::<Name>().ok();
    let exchangers = records.iter().filter(|record| record.owner() == apex);
    let exchangers = exchangers.filter_map(|record| match record.data() {
        Data::Mx(mx) => Some(mx.exchange().clone()),
        _ => None,
    });
    let mut keys = vec![(apex.clone(), Rtype::MX), (apex.clone(), Rtype::TXT)];
    keys.push((apex.clone(), Rtype::CAA));
    for prefix in ["_sealpost.", "_dmarc.", "_mta-sts.", "_smtp._tls."] {
        keys.extend(below(prefix, apex).map(|name| (name, Rtype::TXT)));
    }
    for name in exchangers {
        keys.extend(below("_25._tcp.", &name).map(|name| (name, Rtype::TLSA)));
        keys.extend([(name.clone(), Rtype::A), (name, Rtype::AAAA)]);
    }
    let mut sets: Vec<Set> = Vec::new();
    for (name, rtype) in keys {
        let fits = |record: &&Record| *record.owner() == name && record.rtype() == rtype;
        let data: Vec<_> =
            records.iter().filter(fits).map(|record| record.data().clone()).collect();
        let known = sets.iter().any(|set| set.name == name && set.rtype == rtype);
        if !data.is_empty() && !known {
            sets.push(Set { name, rtype, data });
        }
    }
    sets
}

/// Compares.
pub(super) fn judge(wanted: &Wanted, survey: &Survey) -> Vec<Line> {
    let mut lines = Vec::new();
    let keys = wanted.made_here.as_ref().and_then(|here| here.keys.as_ref());
    let keys = keys.map(|keys| {
        let (state, advice) = match &keys.warning {
            Some(warning) => (State::Wrong, warning.as_str()),
            None => (State::Ok, ""),
        };
        let have = format!("valid until {}", keys.until);
        Line::new(state, "this box", "keys signed for more than 60 days", &have, advice)
    });
    let signed = parent(wanted, &survey.parent, &mut lines);
    for line in &mut lines {
        line.of_parent = true;
    }
    lines.splice(0..0, keys);
    if survey.servers.is_empty() {
        lines.push(Line::new(
            State::Unknown,
            "name servers",
            "an answer",
            "none is known",
            "first the lines above",
        ));
    }
    for (server, said) in &survey.servers {
        name_server(wanted, server, said, &mut lines);
    }
    for (address, heard) in &survey.resolvers {
        resolver(wanted, address.ip(), heard, signed, &mut lines);
    }
    lines
}

/// Says whether the parent names any key.
fn parent(wanted: &Wanted, parent: &Result<Parent, Unknown>, lines: &mut Vec<Line>) -> bool {
    let parent = match parent {
        Ok(parent) => parent,
        Err(unknown) => {
            let have = unknown.to_string();
            lines.push(Line::new(
                State::Unknown,
                "parent zone",
                "a delegation",
                &have,
                "try again",
            ));
            return false;
        }
    };
    let place = match parent.zone.is_root() {
        true => "root zone".to_owned(),
        false => plain(&parent.zone),
    };
    let mut views: Vec<&Delegation> = Vec::new();
    for said in parent.servers.iter().filter_map(|(_, said)| said.as_ref().ok()) {
        let same = |view: &&Delegation| {
            view.name_servers == said.name_servers && same_ds(&view.ds, &said.ds)
        };
        if !views.iter().any(same) {
            views.push(said);
        }
    }
    if views.is_empty() {
        let advice = "try again; do other names work on this box?";
        let have = "none of its name servers answers";
        lines.push(Line::new(State::Unknown, &place, "a delegation", have, advice));
        return false;
    }
    let place = |at: usize| match views.len() {
        1 => place.clone(),
        many => format!("{place} ({} of {many} versions)", at + 1),
    };
    for (at, view) in views.iter().enumerate() {
        delegation(wanted, &place(at), view, lines);
        keys(wanted, &place(at), &view.ds, lines);
    }
    if views.len() > 1 {
        let advice = "they follow each other within hours; look again later";
        let have = "its name servers do not agree";
        lines.push(Line::new(State::Wrong, &place(0), "one version", have, advice));
    }
    views.iter().any(|view| !view.ds.is_empty())
}

fn delegation(wanted: &Wanted, place: &str, view: &Delegation, lines: &mut Vec<Line>) {
    let have = names(&view.name_servers);
    let Some(here) = &wanted.made_here else {
        let (state, advice) = match view.name_servers.is_empty() {
            true => (State::Wrong, "enter your name servers at the registrar"),
            false => (State::Ok, ""),
        };
        lines.push(Line::new(state, place, "NS: yours", &format!("NS: {have}"), advice));
        return;
    };
    let missing = without(&here.name_servers, &view.name_servers);
    let extra = without(&view.name_servers, &here.name_servers);
    let mut advice = Vec::new();
    if !missing.is_empty() {
        advice.push(format!("at the registrar add the name servers {}", names(&missing)));
    }
    if !extra.is_empty() {
        advice.push(format!(
            "take out {}, or name them in the zone too (name_servers)",
            names(&extra)
        ));
    }
    let state = if advice.is_empty() { State::Ok } else { State::Wrong };
    let want = format!("NS: {}", names(&here.name_servers));
    let advice = spoken(&advice.join("; "), MAX_CELL);
    lines.push(Line::new(state, place, &want, &format!("NS: {have}"), &advice));
}

fn keys(wanted: &Wanted, place: &str, ds: &[Ds<Bytes>], lines: &mut Vec<Line>) {
    let Some(here) = &wanted.made_here else {
        let have = if ds.is_empty() { "no DS" } else { "DS" };
        lines.push(Line::new(State::Skipped, place, "DS: yours", have, ""));
        return;
    };
    let of = |keys: &[PublicKey]| {
        let all: Vec<_> =
            keys.iter().map(|key| key.ds(&wanted.apex)).map(|ds| rdata(&ds)).collect();
        if all.is_empty() { "no DS".to_owned() } else { format!("DS {}", all.join(", ")) }
    };
    let want = of(&here.announced);
    let have: Vec<_> = ds.iter().map(rdata).collect();
    let have = if have.is_empty() { "no DS".into() } else { format!("DS {}", have.join(", ")) };
    let names = |ds: &Ds<Bytes>, keys: &[PublicKey]| {
        keys.iter().any(|key| key.is_named_by(&wanted.apex, ds))
    };
    let foreign: Vec<_> = ds.iter().filter(|ds| !names(ds, &here.valid)).collect();
    let missing =
        here.announced.iter().any(|key| !ds.iter().any(|ds| key.is_named_by(&wanted.apex, ds)));
    let old = ds.iter().any(|ds| names(ds, &here.valid) && !names(ds, &here.announced));
    let (state, advice) = if !foreign.is_empty() {
        let tags: Vec<_> = foreign.iter().map(|ds| ds.key_tag().to_string()).collect();
        (
            State::Wrong,
            format!(
                "WARNING: the parent names a key that is not this box's (key tag {}). Whoever has it \
                 can change the domain, and with it alone the domain fails for all who validate. \
                 Unless you are moving the domain just now, replace it at the registrar by the DS \
                 of this box, and ask who put it there",
                tags.join(", ")
            ),
        )
    } else if ds.is_empty() && missing {
        let advice = "paste this DS at the registrar (in all forms: sealpost-agent dns ds). Until \
                      then nobody can tell your zone from a forged one";
        (State::Wrong, advice.into())
    } else if missing {
        (State::Wrong, "at the registrar replace the DS by this one".into())
    } else if old {
        (State::Wrong, "at the registrar take the other DS out".into())
    } else {
        (State::Ok, String::new())
    };
    lines.push(Line::new(state, place, &want, &have, &advice));
}

fn name_server(
    wanted: &Wanted,
    server: &Server,
    said: &Result<Zone, Silence>,
    lines: &mut Vec<Line>,
) {
    let here = wanted.made_here.as_ref();
    let name = plain(&server.name);
    let address = match &server.address {
        Ok(address) => *address,
        Err(unknown) => {
            let advice = "a name server needs an address in the DNS; tell who runs it";
            let (state, have) = (State::Wrong, unknown.to_string());
            lines.push(Line::new(state, &name, "an address", &have, advice));
            return;
        }
    };
    let place = format!("{name} ({address})");
    let want = match here {
        Some(here) => format!("serial {}", here.serial),
        None => "the zone".to_owned(),
    };
    let zone = match said {
        Ok(zone) => zone,
        Err(Silence::NoWay) => {
            let have = "not asked: this box has no way there";
            lines.push(Line::new(State::Skipped, &place, &want, have, ""));
            return;
        }
        Err(silence) => {
            let advice = "does it run, and may it be reached at port 53?";
            lines.push(Line::new(State::Wrong, &place, &want, &silence.to_string(), advice));
            return;
        }
    };
    let Some(serial) = zone.serial.filter(|_| zone.authoritative) else {
        let have = match (zone.rcode, zone.authoritative) {
            (Rcode::NOERROR, false) => "it does not have the zone".to_owned(),
            (rcode, _) => format!("it does not serve the zone ({rcode})"),
        };
        let advice = match here {
            Some(_) => "does the agent run, and is its tunnel up? sealpost-agent status",
            None => "tell who runs it",
        };
        lines.push(Line::new(State::Wrong, &place, &want, &have, advice));
        return;
    };
    let (state, advice) = match here {
        Some(here) if is_newer(here.serial, serial) => (
            State::Wrong,
            "it has an older version. A change takes seconds; if that stays: sealpost-agent status",
        ),
        Some(here) if here.serial != serial => (
            State::Wrong,
            "it has a newer version than this box: was the box restored from a backup? The agent \
             overtakes it by itself when it runs",
        ),
        _ => (State::Ok, ""),
    };
    let mut have = format!("serial {serial}");
    let differing = sets(wanted, &place, &zone.sets, "", lines);
    if differing == 0 {
        let _ = write!(have, ", {} sets of records as wanted", wanted.sets.len());
    }
    let before = lines.len() - differing;
    lines.insert(before, Line::new(state, &place, &want, &have, advice));
}

fn resolver(
    wanted: &Wanted,
    address: IpAddr,
    heard: &Result<Heard, Silence>,
    signed: bool,
    lines: &mut Vec<Line>,
) {
    let place = format!("resolver {address}");
    let ours = wanted.made_here.is_some();
    let want = if ours || signed { "validated answers" } else { "answers" };
    let heard = match heard {
        Ok(heard) => heard,
        Err(Silence::NoWay) => {
            let have = "not asked: this box has no way there";
            lines.push(Line::new(State::Skipped, &place, want, have, ""));
            return;
        }
        Err(silence) => {
            let advice = "others: --resolver ADDRESS";
            lines.push(Line::new(State::Unknown, &place, want, &silence.to_string(), advice));
            return;
        }
    };
    let (state, have, advice) = match heard.outcome {
        Outcome::Validated => (State::Ok, "validated".to_owned(), ""),
        Outcome::NotValidated if signed => (
            State::Wrong,
            "answers that are not validated".into(),
            "it has not seen the DS yet, or does not validate; look again in an hour",
        ),
        Outcome::NotValidated => {
            let have = "answers that are not validated, as the parent names no key";
            (State::Skipped, have.into(), "")
        }
        Outcome::Bogus(reason) => {
            let reason = reason.map(|reason| format!(", {reason}")).unwrap_or_default();
            (
                State::Wrong,
                format!("BOGUS: signatures and DS do not fit (SERVFAIL{reason})"),
                "for everybody who validates the domain is GONE. Compare the DS lines above; a wrong \
                 DS at the registrar is the usual cause",
            )
        }
        Outcome::Failed(Rcode::NXDOMAIN, _) => (
            State::Wrong,
            "there is no such domain".into(),
            "is it registered, and are the name servers entered at the registrar?",
        ),
        Outcome::Failed(rcode, reason) => {
            let reason = reason.map(|reason| format!(", {reason}")).unwrap_or_default();
            (
                State::Wrong,
                format!("it finds nothing ({rcode}{reason})"),
                "see the name servers above; what fails is remembered for minutes",
            )
        }
    };
    let advice_of_sets =
        "it may remember the records of before; look again when their TTL has passed";
    let differing = sets(wanted, &place, &heard.sets, advice_of_sets, lines);
    let before = lines.len() - differing;
    lines.insert(before, Line::new(state, &place, want, &have, advice));
}

/// A line for each set that differs; how many.
fn sets(
    wanted: &Wanted,
    place: &str,
    said: &[Result<Vec<Data>, Silence>],
    advice: &str,
    lines: &mut Vec<Line>,
) -> usize {
    let before = lines.len();
    for (set, said) in wanted.sets.iter().zip(said) {
        let title = format!("{} {}", plain(&set.name), set.rtype);
        let want = format!("{title}: {}", shown(&set.data));
        let have = match said {
            Ok(data) => data,
            Err(silence) => {
                lines.push(Line::new(State::Unknown, place, &want, &silence.to_string(), advice));
                continue;
            }
        };
        if satisfies(wanted.made_here.is_some(), set, have) {
            continue;
        }
        let own = match wanted.made_here {
            Some(_) => "the name server changed it, or has another version",
            None => "publish what is wanted, and nothing else there: sealpost-agent dns",
        };
        let advice = if advice.is_empty() { own } else { advice };
        lines.push(Line::new(State::Wrong, place, &want, &shown(have), advice));
    }
    lines.len() - before
}

/// Whether `have` is as it should be. Who keeps the DNS elsewhere may say more in texts and keep
/// the mail server's next key ready.
fn satisfies(made_here: bool, set: &Set, have: &[Data]) -> bool {
    let all = set.data.iter().all(|data| have.iter().any(|other| same(data, other)));
    let more = !made_here && matches!(set.rtype, Rtype::TXT | Rtype::TLSA);
    all && (more || have.iter().all(|data| set.data.iter().any(|other| same(data, other))))
}

/// Whether both say the same. Texts may be cut into parts anywhere.
fn same(one: &Data, other: &Data) -> bool {
    match (one, other) {
        (Data::Txt(one), Data::Txt(other)) => one.iter().flatten().eq(other.iter().flatten()),
        _ => one == other,
    }
}

fn shown(data: &[Data]) -> String {
    let all: Vec<_> = data.iter().map(ToString::to_string).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn names(all: &[Name]) -> String {
    let all: Vec<_> = all.iter().map(plain).collect();
    if all.is_empty() { "none".into() } else { all.join(" ") }
}

fn without(these: &[Name], those: &[Name]) -> Vec<Name> {
    these.iter().filter(|name| !those.contains(name)).cloned().collect()
}

fn same_ds(these: &[Ds<Bytes>], those: &[Ds<Bytes>]) -> bool {
    these.len() == those.len() && these.iter().all(|ds| those.contains(ds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;
    use crate::zone::zone_key::{Role, ZoneKey};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn key() -> PublicKey {
        ZoneKey::generate(Role::Entry).unwrap().public().clone()
    }

    const RECORDS: &str = "@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA 3 1 1 00ff\n\
        _sealpost TXT \"one \" two\nx A 192.0.2.9\n";

    fn wanted(key: &PublicKey) -> Wanted {
        let apex = name("a.example.");
        let sets = important(&apex, &records("a.example.", RECORDS));
        let made_here = MadeHere {
            name_servers: vec![name("ns1.b.example."), name("ns2.b.example.")],
            announced: vec![key.clone()],
            valid: vec![key.clone()],
            serial: 7,
            keys: None,
        };
        Wanted { apex, made_here: Some(made_here), sets }
    }

    /// As it should be.
    fn survey(wanted: &Wanted) -> Survey {
        let here = wanted.made_here.as_ref().unwrap();
        let data = || wanted.sets.iter().map(|set| Ok(set.data.clone())).collect::<Vec<_>>();
        let at = |name: &Name| Server { name: name.clone(), address: Ok([192, 0, 2, 5].into()) };
        let delegation = Delegation {
            name_servers: here.name_servers.clone(),
            ds: here.announced.iter().map(|key| key.ds(&wanted.apex)).collect(),
            ds_ttl: 3600,
        };
        let zone = |name| {
            let sets = data();
            (
                at(name),
                Ok(Zone { rcode: Rcode::NOERROR, authoritative: true, serial: Some(7), sets }),
            )
        };
        let heard = Heard { outcome: Outcome::Validated, serial: Some(7), sets: data() };
        Survey {
            parent: Ok(Parent {
                zone: name("example."),
                servers: vec![(at(&name("ns.example.")), Ok(delegation))],
            }),
            servers: here.name_servers.iter().map(zone).collect(),
            resolvers: vec![("9.9.9.9:53".parse().unwrap(), Ok(heard))],
        }
    }

    fn parent_of(survey: &mut Survey) -> &mut Delegation {
        survey.parent.as_mut().unwrap().servers[0].1.as_mut().unwrap()
    }

    /// What is said of all that is not as it should be.
    fn wrong(wanted: &Wanted, survey: &Survey) -> String {
        let lines = judge(wanted, survey);
        let bad: Vec<_> = lines
            .iter()
            .filter(|line| matches!(line.state, State::Wrong | State::Unknown))
            .map(|line| format!("{}|{}|{}|{}", line.place, line.want, line.have, line.advice))
            .collect();
        assert_eq!(bad.is_empty(), all_well(&lines));
        bad.join("\n")
    }

    #[test]
    fn what_is_as_it_should_be_is_said_in_a_line_each() {
        let wanted = wanted(&key());
        assert_eq!(wanted.sets.len(), 4, "{:?}", wanted.sets);
        let survey = survey(&wanted);
        assert_eq!(wrong(&wanted, &survey), "");
        let lines = judge(&wanted, &survey);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[2].have, "serial 7, 4 sets of records as wanted");
    }

    #[test]
    fn a_key_of_somebody_else_at_the_parent_is_warned_of() {
        let (mine, other) = (key(), key());
        let wanted = wanted(&mine);
        let ds = |key: &PublicKey| key.ds(&wanted.apex);
        for both in [false, true] {
            let mut survey = survey(&wanted);
            let here = parent_of(&mut survey);
            here.ds = if both { vec![ds(&mine), ds(&other)] } else { vec![ds(&other)] };
            let said = wrong(&wanted, &survey);
            assert!(said.contains("WARNING") && said.contains(&other.tag().to_string()), "{said}");
        }
        let mut unsigned = survey(&wanted);
        parent_of(&mut unsigned).ds.clear();
        unsigned.resolvers[0].1.as_mut().unwrap().outcome = Outcome::NotValidated;
        let said = wrong(&wanted, &unsigned);
        assert!(said.contains("|no DS|paste this DS") && said.lines().count() == 1, "{said}");
    }

    #[test]
    fn in_a_rollover_the_parent_is_told_of_one_key_and_either_is_valid() {
        let (old, new) = (key(), key());
        let mut wanted = wanted(&new);
        let old_ds = old.ds(&wanted.apex);
        wanted.made_here.as_mut().unwrap().valid.push(old);
        let mut survey = survey(&wanted);
        parent_of(&mut survey).ds = vec![old_ds.clone()];
        assert!(wrong(&wanted, &survey).ends_with("replace the DS by this one"));
        parent_of(&mut survey).ds = vec![old_ds, new.ds(&wanted.apex)];
        assert!(wrong(&wanted, &survey).ends_with("take the other DS out"));
    }

    #[test]
    fn each_fault_is_named_where_it_is() {
        let wanted = wanted(&key());
        type Fault = fn(&mut Survey);
        let faults: [(Fault, &str); 12] = [
            (|it| it.parent = Err(Unknown::Failed(Rcode::SERVFAIL)), "resolvers cannot find out"),
            (
                |it| {
                    parent_of(it).name_servers.pop();
                },
                "add the name servers ns2.b.example",
            ),
            (
                |it| parent_of(it).name_servers.push(name("ns.old.example.")),
                "take out ns.old.example,",
            ),
            (
                |it| it.servers[0].1 = Err(Silence::None),
                "ns1.b.example (192.0.2.5)|serial 7|it does not",
            ),
            (|it| it.servers[0].0.address = Err(Unknown::Absent), "needs an address"),
            (|it| it.servers[1].1.as_mut().unwrap().serial = Some(6), "an older version"),
            (|it| it.servers[1].1.as_mut().unwrap().serial = Some(8), "restored from a backup"),
            (|it| it.servers[1].1.as_mut().unwrap().authoritative = false, "not have the zone"),
            (
                |it| {
                    let zone = it.servers[1].1.as_mut().unwrap();
                    (zone.rcode, zone.serial, zone.sets) = (Rcode::REFUSED, None, vec![]);
                },
                "does not serve the zone (REFUSED)",
            ),
            (
                |it| it.servers[1].1.as_mut().unwrap().sets[0] = Ok(vec![]),
                "a.example MX: 10 mx.a.example.|none|the name server changed it",
            ),
            (
                |it| it.resolvers[0].1.as_mut().unwrap().outcome = Outcome::Bogus(None),
                "BOGUS: signatures and DS do not fit",
            ),
            (
                |it| it.resolvers[0].1.as_mut().unwrap().sets[2] = Ok(vec![]),
                "look again when their TTL",
            ),
        ];
        for (fault, words) in faults {
            let mut survey = survey(&wanted);
            fault(&mut survey);
            let said = wrong(&wanted, &survey);
            assert!(said.contains(words), "{words}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        let mut no_ipv6 = survey(&wanted);
        no_ipv6.servers[0].1 = Err(Silence::NoWay);
        assert_eq!(wrong(&wanted, &no_ipv6), "");
    }

    #[test]
    fn who_keeps_the_dns_elsewhere_may_say_more() {
        let mut wanted = wanted(&key());
        let mut survey = survey(&wanted);
        wanted.made_here = None;
        parent_of(&mut survey).ds.clear();
        let more = records("a.example.", "_sealpost TXT \"one t\" wo\n_sealpost TXT v=other\n");
        let place = wanted.sets.iter().position(|set| set.rtype == Rtype::TXT).unwrap();
        let more: Vec<_> = more.iter().map(|record| record.data().clone()).collect();
        survey.servers[0].1.as_mut().unwrap().sets[place] = Ok(more);
        survey.resolvers[0].1.as_mut().unwrap().outcome = Outcome::NotValidated;
        assert_eq!(wrong(&wanted, &survey), "");
        let other = records("a.example.", "@ MX 10 mx\n@ MX 20 old.example.\n");
        let other = other.iter().map(|record| record.data().clone()).collect();
        survey.servers[0].1.as_mut().unwrap().sets[0] = Ok(other);
        let said = wrong(&wanted, &survey);
        assert!(
            said.contains("20 old.example") && said.contains("publish what is wanted"),
            "{said}"
        );
    }

    #[test]
    fn strangers_cannot_write_to_the_terminal() {
        let wanted = wanted(&key());
        let mut survey = survey(&wanted);
        let evil = records("a.example.", "_sealpost TXT \"\\027[2J\\010x\"\n");
        let place = wanted.sets.iter().position(|set| set.rtype == Rtype::TXT).unwrap();
        let evil = evil.iter().map(|record| record.data().clone()).collect();
        survey.servers[0].1.as_mut().unwrap().sets[place] = Ok(evil);
        let lines = judge(&wanted, &survey);
        let clean = |text: &str| text.chars().all(|c| !c.is_control());
        assert!(lines.iter().all(|line| clean(&line.have) && clean(&line.advice)));
    }
}

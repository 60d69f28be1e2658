//! Signed zones before the verifiers of others: ldns-verify-zone (package ldnsutils), dnssec-verify
//! and named-checkzone (bind9-utils), nsd-checkzone (nsd).
//!
//! A judge that is not installed is named loudly, and the others still judge.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sealpost_agent::zone::denial::Denial;
use sealpost_agent::zone::keys::Use;
use sealpost_agent::zone::plan::{Authority, Challenge, Dkim, Exchanger, Host, MtaSts, Text};
use sealpost_agent::zone::zone_key::Role;
use sealpost_agent::zone::{
    Built, Keys, Plan, Policy, ZoneKey, build, included, master_file, sign,
};
use sealpost_dns::record::Name;

/// What an owner may have beside her mail: everything that is treated specially somewhere.
const OWN: &str = r#"
@               600 TXT   "some-site-verification=abc" "second string"
@                   MX    50 Backup.Elsewhere.EXAMPLE.
www                 CNAME @
WWW2            60  A     192.0.2.80
                60  AAAA  2001:db8::80
*.Wild              TXT   "wildcard"
*                   A     192.0.2.81
deep.er.and.deeper  TXT   "below names that are empty"
signed              NS    ns.signed
                    NS    NS.Elsewhere.example.
                    DS    60485 13 2 D4B7D520E7BB5F0F67674A0CCEB1E3E0614B93C4F9E99B8383F6A1E4469DA50A
ns.signed           A     192.0.2.82
                    AAAA  2001:db8::82
unsigned            NS    ns.unsigned
ns.unsigned         A     192.0.2.83
moved               DNAME Other.EXAMPLE.
exotic              TYPE65280 \# 4 01FF00ab
empty               TYPE65281 \# 0
_sip._tcp           SRV   1 2 5060 WWW2
naptr               NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .
svc                 HTTPS 1 . alpn="h2,h3" ipv4hint=192.0.2.80
                    SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789
                    LOC   \# 16 0012161389 A1B2C3 80000000 00989680
who                 HINFO "Generic" "Unix"
people              RP    Someone.Example. people
svc2                HTTPS 1 Target.EXAMPLE. alpn="h2"
                    SVCB  0 Alias.EXAMPLE.
naptr2              NAPTR 10 20 "s" "SIP+D2U" "" _Sip._UDP.EXAMPLE.
ptr                 PTR   Host.EXAMPLE.
minfo               MINFO R.EXAMPLE. E.EXAMPLE.
ipsec               IPSECKEY 10 3 2 Gate.EXAMPLE. AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==
pgp                 OPENPGPKEY AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==
uri                 TYPE256 \# 18 000A0001 68747470733A2F2F782E7465 7374
smimea              TYPE53 \# 5 03010100FF
a\.dot.and\032space  TXT  "escaped"
quoted              TXT   "a \"quote\", a \\ and ; and \000\255"
"#;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn host(name: &str, addresses: &[&str]) -> Host {
    let addresses = addresses.iter().map(|it| it.parse::<IpAddr>().unwrap()).collect();
    Host { name: name.parse().unwrap(), addresses }
}

fn mail_plan() -> Plan {
    let apex: Name = "Example.ORG.".parse().unwrap();
    let mut plan = Plan::new(apex.clone());
    plan.name_servers =
        vec![host("ns1.example.org.", &["192.0.2.1", "2001:db8::1"]), host("ns.relay.test.", &[])];
    plan.exchangers = [("mx", 10, "192.0.2.11"), ("mx2", 20, "2001:db8::12")]
        .map(|(label, preference, address)| Exchanger {
            preference,
            host: host(&format!("{label}.example.org."), &[address]),
        })
        .into();
    plan.certificate_keys = vec![[0xaa; 32], [0xbb; 32]];
    plan.dkim = vec![Dkim {
        selector: "2026.mail".into(),
        text: format!("v=DKIM1; k=rsa; p={}", "A".repeat(700)),
    }];
    plan.spf = Some("v=spf1 mx -all".into());
    plan.dmarc = Some("v=DMARC1; p=reject; rua=mailto:dmarc@example.org".into());
    plan.tls_reports = vec!["mailto:tls@example.org".into()];
    plan.mta_sts =
        Some(MtaSts { id: "20261122".into(), addresses: vec!["192.0.2.11".parse().unwrap()] });
    let account = "https://acme-v02.api.letsencrypt.org/acme/acct/1234567890";
    plan.authorities =
        vec![Authority { domain: "letsencrypt.org".into(), account: Some(account.into()) }];
    plan.challenges = vec![Challenge {
        name: "mx.example.org.".parse().unwrap(),
        digest: "LHDhK3oGRvkiefQnx7OOczTY5Tic_xZ6HcMOc_gmtoM".into(),
    }];
    plan.texts = vec![Text {
        name: "_sealpost.example.org.".parse().unwrap(),
        text: "sealpost1 box=x".into(),
    }];
    plan
}

fn full_plan() -> Plan {
    let mut plan = mail_plan();
    plan.own = included::parse(OWN.as_bytes(), Path::new("own.zone"), &plan.apex).unwrap();
    plan
}

type MakeKeys = fn() -> Keys;

fn combined() -> Keys {
    Keys::combined(ZoneKey::generate(Role::Entry).unwrap())
}

fn split() -> Keys {
    Keys::split(ZoneKey::generate(Role::Entry).unwrap(), ZoneKey::generate(Role::Zone).unwrap())
}

fn offline() -> Keys {
    let entry = ZoneKey::generate(Role::Entry).unwrap();
    let zone = ZoneKey::generate(Role::Zone).unwrap();
    let next = ZoneKey::generate(Role::Zone).unwrap();
    let public = [zone.public().clone(), next.public().clone()];
    let year = Duration::from_secs(365 * 24 * 3600);
    let apex = mail_plan().apex;
    Keys::offline(sign::endorse(&apex, &entry, &public, year, now()).unwrap(), zone)
}

/// In the middle of a change from one key for everything to another.
fn rolling() -> Keys {
    let using = |announced| {
        let key = ZoneKey::generate(Role::Entry).unwrap();
        Use { key, signs_zone: true, signs_keys: true, announced }
    };
    let shown = vec![ZoneKey::generate(Role::Zone).unwrap().public().clone()];
    Keys { here: vec![using(false), using(true)], shown, ..Keys::default() }
}

/// Runs a judge; `None` when it is not there.
fn judge(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            eprintln!("\n*** {program} is not installed, so it does not judge: {error} ***\n");
            None
        }
    }
}

/// What the judges say of a zone. `one_key` says that a key may sign both keys and records.
fn judges(zone: &str, one_key: bool) -> Vec<(&'static str, bool, String)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zone");
    std::fs::write(&path, zone).unwrap();
    let file = path.to_str().unwrap();
    let strict: &[&str] = if one_key { &["-z"] } else { &[] };
    let verify = [strict, &["-o", "example.org", file]].concat();
    let asked: [(&'static str, &[&str]); 5] = [
        ("ldns-verify-zone", &["-V", "1", file]),
        // The digest of the zone too, which it does not ask for by itself.
        ("ldns-verify-zone", &["-V", "1", "-Z", file]),
        ("dnssec-verify", &verify),
        ("named-checkzone", &["-i", "local", "-k", "fail", "-m", "fail", "example.org", file]),
        ("nsd-checkzone", &["example.org", file]),
    ];
    let answers = asked.into_iter().filter_map(|(program, arguments)| {
        judge(program, arguments).map(|(good, text)| (program, good, text))
    });
    answers.collect()
}

fn accepted(name: &str, built: &Built, one_key: bool) {
    let zone = master_file::text(&built.zone.records);
    for (program, good, words) in judges(&zone, one_key) {
        assert!(good, "{name}: {program} says: {words}");
    }
}

#[test]
fn every_kind_of_zone_passes_all_judges() {
    for (plan_name, plan) in [("mail", mail_plan()), ("full", full_plan())] {
        for denial in [Denial::Nsec, Denial::Nsec3] {
            let kinds: [(&str, MakeKeys); 4] = [
                ("one key", combined),
                ("two keys", split),
                ("offline", offline),
                ("rolling", rolling),
            ];
            for (keys_name, keys) in kinds {
                let name = format!("{plan_name}, {denial:?}, {keys_name}");
                let policy = Policy { denial, ..Policy::default() };
                let built = build(&plan, &keys(), &policy, None, None, now()).expect(&name);
                println!("{name}: {:?}", built.verified);
                accepted(&name, &built, matches!(keys_name, "one key" | "rolling"));
            }
        }
    }
}

#[test]
fn a_zone_that_was_signed_again_in_part_passes_all_judges() {
    let (keys, policy) = (combined(), Policy::default());
    let day = 24 * 3600;
    let mut plan = full_plan();
    let mut last = build(&plan, &keys, &policy, None, None, now() - 6 * day).unwrap();
    for days in (0..6).rev() {
        plan.texts[0].text = format!("sealpost1 box=day{days}");
        let next =
            build(&plan, &keys, &policy, Some(&last.zone), None, now() - days * day).unwrap();
        assert!(next.changed && next.zone.serial > last.zone.serial);
        last = next;
    }
    accepted("signed again in part", &last, true);
}

#[test]
fn the_judges_notice_a_flipped_bit() {
    let built = build(&mail_plan(), &combined(), &Policy::default(), None, None, now()).unwrap();
    let zone = master_file::text(&built.zone.records).replace("192.0.2.11", "192.0.2.10");
    for (program, good, words) in judges(&zone, true) {
        assert!(!good || program.ends_with("checkzone"), "{program} says: {words}");
    }
}

//! `sealpost-agent dns ds`, `dns zone` and `dns sign --check`: what this box has and makes itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use domain::base::iana::Rtype;
use sealpost_dns::record::Record;
use serde_json::{Value, json};

use super::made_here::Kept;
use crate::command::{print_json, terminal};
use crate::publish::certificate_keys;
use crate::publish::make::{Order, try_to};
use crate::publish::now as seconds;
use crate::publish::wishes::Wanted;
use crate::registration::keys::Keys;
use crate::zone::master_file;

/// Where certificate authorities look: comes and goes.
const CHALLENGE: &[u8] = b"_acme-challenge";

/// What to enter at the registrar.
pub(super) fn ds(kept: &Kept<'_>, as_json: bool) -> anyhow::Result<ExitCode> {
    let parent = kept.for_parent()?;
    let entry = parent.entry(&kept.apex);
    if as_json {
        print_json(&entry.json())?;
    } else {
        entry.lines().iter().try_for_each(|line| terminal::print(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The zone as it is signed.
pub(super) fn zone(
    kept: &Kept<'_>,
    output: Option<&Path>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let last = kept.last.as_ref().with_context(|| {
        format!("the zone of {} has not been made yet: start the agent", kept.domain())
    })?;
    let text = master_file::text(&last.records);
    let files = kept.key_files();
    let shown: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    if let Some(path) = output {
        let unwritten = || format!("cannot write {}", path.display());
        std::fs::write(path, &text).with_context(unwritten)?;
    }
    if as_json {
        let records: Vec<_> = last.records.iter().map(master_file::line).collect();
        print_json(&json!({
            "domain": kept.domain(),
            "serial": last.serial,
            "records": records,
            "key_files": shown,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if output.is_none() {
        terminal::print(text.trim_end())?;
    }
    // Beside the zone, not in it.
    if kept.store.is_offline() {
        eprintln!("The key that the parent zone knows is in the zone's recovery kit.");
    }
    match shown.as_slice() {
        [] => eprintln!("Its keys are at its primary."),
        files => eprintln!(
            "The key that signs it is in {}, in the private key format of BIND (v1.3, algorithm 13), \
             which Knot and ldns read too; its public half is the DNSKEY record. With zone and key the \
             domain can be taken elsewhere, and the DS at the registrar stays.",
            files.join(", ")
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a try of the zone came to.
struct Tried {
    domain: String,
    made: Result<Made, String>,
}

struct Made {
    serial: u32,
    records: usize,
    changes: Vec<String>,
}

/// Makes and signs the zones, and publishes nothing.
pub(super) fn sign(kept: &[Kept<'_>], as_json: bool) -> anyhow::Result<ExitCode> {
    if kept.is_empty() {
        anyhow::bail!("the file has no such [[zone]]");
    }
    let tried: Vec<_> = kept.iter().map(attempt).collect();
    let done = tried.iter().all(|tried| tried.made.is_ok());
    if as_json {
        print_json(&json!({ "zones": tried.iter().map(Tried::json).collect::<Vec<_>>() }))?;
    } else {
        let lines = tried.iter().flat_map(Tried::lines);
        lines.into_iter().try_for_each(|line| terminal::print(&line))?;
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn attempt(kept: &Kept<'_>) -> Tried {
    let made = made(kept).map_err(|error| format!("{error:#}"));
    Tried { domain: kept.domain().to_string(), made }
}

fn made(kept: &Kept<'_>) -> anyhow::Result<Made> {
    if let Some(primary) = kept.zone.primary {
        anyhow::bail!("it is made and signed by {primary}, and taken as it is there");
    }
    let memory = kept.store.memory();
    let order = Order {
        zone: kept.zone.clone(),
        store: kept.store.clone(),
        last: kept.last.clone().map(Arc::new),
        seen: None,
        facts: kept.facts(),
        boxes: Keys::open(&kept.config.fixed.state)?.all(),
        certificate_keys: certificate_keys::to_publish(&memory.shown, &memory.planned),
        wanted: Wanted::default(),
        dynamic: kept.store.updates(&kept.apex)?,
        now: seconds(),
    };
    let built = try_to(&order)?.built;
    let ignored: &[Rtype] = match kept.zone.certificate_authorities.is_empty() {
        // Whoever obtains certificates has it set, and is not here.
        true => &[Rtype::CAA],
        false => &[],
    };
    let changes = changes(kept.records(), &built.zone.records, ignored);
    Ok(Made { serial: built.zone.serial, records: built.zone.records.len(), changes })
}

/// The lines that go and those that come, but for what signing makes of them.
fn changes(before: &[Record], after: &[Record], ignored: &[Rtype]) -> Vec<String> {
    let told = |records: &[Record]| -> BTreeSet<String> {
        let signers =
            [Rtype::RRSIG, Rtype::NSEC, Rtype::NSEC3, Rtype::NSEC3PARAM, Rtype::ZONEMD, Rtype::SOA];
        let told = records.iter().filter(|record| {
            let rtype = record.rtype();
            let challenge = record.owner().first().as_slice().eq_ignore_ascii_case(CHALLENGE);
            !signers.contains(&rtype) && !ignored.contains(&rtype) && !challenge
        });
        told.map(master_file::line).collect()
    };
    let (before, after) = (told(before), told(after));
    let gone = before.difference(&after).map(|line| format!("- {line}"));
    let come = after.difference(&before).map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

impl Tried {
    fn json(&self) -> Value {
        match &self.made {
            Ok(made) => json!({
                "domain": self.domain,
                "ok": true,
                "serial": made.serial,
                "records": made.records,
                "changes": made.changes,
            }),
            Err(error) => json!({ "domain": self.domain, "ok": false, "error": error }),
        }
    }

    fn lines(&self) -> Vec<String> {
        let domain = &self.domain;
        match &self.made {
            Err(error) => vec![format!("{domain}: {error}")],
            Ok(made) if made.changes.is_empty() => {
                let records = made.records;
                vec![format!("{domain}: good, {records} records, and as the last version")]
            }
            Ok(made) => {
                let (records, changes) = (made.records, made.changes.len());
                let first =
                    format!("{domain}: good, {records} records. This would change ({changes}):");
                std::iter::once(first).chain(made.changes.iter().cloned()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;

    #[test]
    fn what_changes_is_told_without_what_signing_makes_of_it() {
        let before =
            records("a.example.", "@ 60 MX 1 b\nx 60 A 192.0.2.1\n@ 60 CAA 0 issue \"x\"\n");
        let after = records(
            "a.example.",
            "@ 60 MX 1 b\nx 60 A 192.0.2.2\n@ 60 NSEC b NS\n_acme-challenge 60 TXT y\n",
        );
        let told = changes(&before, &after, &[Rtype::CAA]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("- x.a.example. ") && told[1].starts_with("+ x.a.example. "));
        assert_eq!(changes(&before, &after, &[]).len(), 3);
    }
}

//! `sealpost-agent dns offline` and `dns sign-keys`: the key that the parent zone knows, in a kit that
//! the owner takes off the box.
//!
//! The key leaves the box only after it was read back from the owner's copy, and that copy has signed a
//! list of keys which makes a valid zone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use super::made_here::Kept;
use super::rollover::told;
use crate::command::terminal;
use crate::lookup::delegation::Resolvers;
use crate::lookup::resolvers::{FILE, for_way};
use crate::publish::now as seconds;
use crate::publish::roll_watch::{waits_for_zone_key, zone_step};
use crate::status::date;
use crate::zone::key_kit::KeyKit;

/// How long the list of keys is good, when nobody says.
pub(super) const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Puts the key into the kit `path` and takes it off the box; or first begins to sign with two keys.
pub(super) async fn offline(
    kept: &Kept<'_>,
    path: &Path,
    validity: Duration,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    refuse_primary(kept)?;
    let (store, domain) = (&kept.store, kept.domain());
    if store.is_offline() {
        bail!(
            "the key of {domain} is not on this box but in its recovery kit already. To sign the list \
             of keys again: sealpost-agent dns sign-keys {domain} --kit {}",
            path.display()
        );
    }
    if !store.split(kept.records(), seconds())? {
        let way = Arc::new(Resolvers::new(for_way(&[], Path::new(FILE))));
        let stepped = zone_step(store, &kept.apex, way);
        let stepped = terminal::patiently("asking the name servers", stepped).await?;
        if let Some((roll, false)) = stepped {
            let waits = waits_for_zone_key(roll.next(seconds()));
            let said = format!(
                "{domain}: one key signs everything so far. A second one for the records is on its way \
                 into the zone, and the first can leave when all know it.\n\
                 It waits for {waits}.\n\
                 The running agent goes on by itself. Type this command again then; nothing was written \
                 to {} yet.",
                path.display()
            );
            let value = json!({ "domain": domain, "state": "preparing", "waits_for": waits });
            return told(&said, &value, as_json);
        }
    }
    refuse_state(path, &kept.config.fixed.state)?;
    let kit = KeyKit { domain: domain.clone(), key: store.entry_for_kit()? };
    write_kit(path, &kit.to_text()?)?;
    // What the owner has is what counts from now on.
    let copy = read_kit(kept, path)?;
    let ends = store.take_offline(&kept.apex, &copy.key, validity, seconds())?;
    let said = format!(
        "{domain}: the key with the tag {} has left this box. It is in {} alone.\n\
         \n\
         - Take that file off this box now, make two copies (it can be printed: {} lines), and look\n\
           that they can be read. Whoever has it can have the domain say anything.\n\
         - The list of keys that it signed is good until {}. Come with it before, best 60 days before:\n\
           sealpost-agent dns sign-keys {domain} --kit FILE\n\
         - If all copies are lost the zone goes on until that day. Until then a new key can be brought in\n\
           at the registrar alone; after it the domain fails for all who validate.\n\
         - Backups of this box from before hold the key still.",
        copy.key.public().tag(),
        path.display(),
        copy.to_text()?.lines().count(),
        date(ends),
    );
    let value = json!({
        "domain": domain,
        "state": "offline",
        "key_tag": copy.key.public().tag(),
        "kit": path,
        "keys_until": ends,
    });
    told(&said, &value, as_json)
}

/// Takes the key back from the kit.
pub(super) fn back(kept: &Kept<'_>, path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    refuse_primary(kept)?;
    let (kit, domain) = (read_kit(kept, path)?, kept.domain());
    kept.store.take_back(&kit.key)?;
    let tag = kit.key.public().tag();
    let said = format!(
        "{domain}: the key with the tag {tag} is on this box again, which renews all signatures by \
         itself. The kit is still worth as much as the key: keep it, or destroy it"
    );
    told(&said, &json!({ "domain": domain, "state": "here", "key_tag": tag }), as_json)
}

/// Has the kit sign the list of keys anew.
pub(super) fn sign_keys(
    kept: &Kept<'_>,
    path: &Path,
    validity: Duration,
    new_zone_key: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    refuse_primary(kept)?;
    let (kit, domain, store) = (read_kit(kept, path)?, kept.domain(), &kept.store);
    let another = new_zone_key.then(|| kept.records());
    let ends = store.sign_keys(&kept.apex, &kit.key, validity, another, seconds())?;
    let mut said = format!(
        "{domain}: the list of keys is good until {}. The running agent publishes it within seconds. \
         Take the kit away again",
        date(ends)
    );
    let roll = store.zone_roll()?;
    if let Some(roll) = &roll {
        said.push_str(&format!(
            "\nThe key that signs the records is being changed, by the running agent and without the kit; \
             that waits for {}. The old one stays in the list until it is signed again",
            waits_for_zone_key(roll.next(seconds()))
        ));
    }
    let value = json!({
        "domain": domain,
        "keys_until": ends,
        "key_tag": kit.key.public().tag(),
        "zone_roll": roll,
    });
    told(&said, &value, as_json)
}

fn refuse_primary(kept: &Kept<'_>) -> anyhow::Result<()> {
    match kept.zone.primary {
        Some(primary) => {
            bail!("the keys of {} are at its primary, {primary}: keep them there", kept.domain())
        }
        None => Ok(()),
    }
}

/// A kit beside the keys would be taken along with them.
fn refuse_state(path: &Path, state: &Path) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).canonicalize();
    match (directory, state.canonicalize()) {
        (Ok(directory), Ok(state)) if directory.starts_with(&state) => {
            bail!(
                "{} is where this box keeps its keys: name another place for the kit",
                state.display()
            )
        }
        _ => Ok(()),
    }
}

fn read_kit(kept: &Kept<'_>, path: &Path) -> anyhow::Result<KeyKit> {
    let text = terminal::file_or_input(path)?;
    let kit = KeyKit::from_text(&text).with_context(|| path.display().to_string())?;
    if kit.domain != *kept.domain() {
        bail!("the kit is that of {}, not of {}", kit.domain, kept.domain());
    }
    Ok(kit)
}

/// Writes a kit that nobody else can read, and never over something else: not a link's way to make a
/// file, as sticks know no links. What is there already is left to be read.
fn write_kit(path: &Path, text: &str) -> anyhow::Result<()> {
    if path == Path::new("-") {
        bail!(
            "name a file for the kit, best on a stick: a kit that went to a screen alone is easily lost"
        );
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_is_private_and_takes_no_other_files_place() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kit");
        write_kit(&path, "one").unwrap();
        write_kit(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_kit(Path::new("-"), "x").is_err());
        assert!(write_kit(&dir.path().join("no/kit"), "x").is_err());
        std::fs::create_dir(dir.path().join("zones")).unwrap();
        assert!(refuse_state(&dir.path().join("zones/kit"), dir.path()).is_err());
        assert!(refuse_state(&path, &dir.path().join("zones")).is_ok());
    }
}

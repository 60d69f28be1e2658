//! The zone of a domain that is given up: what is left of it here, and what is for the owner to do.
//!
//! The keys are never deleted. Who holds them can take the domain up again as it was, and as long as the
//! parent names them nobody else can serve the domain.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::Config;
use crate::publish::store::Store;
use crate::registration::config_file::ConfigFile;
use crate::registration::domain::Domain as Name;

/// What is left.
pub(super) struct Left {
    domain: Name,
    file: PathBuf,
    /// Whether its `[[zone]]` was taken out just now.
    removed: bool,
    /// Where its keys are.
    keys: PathBuf,
}

/// Takes the zone of `domain` out of `file`, if that is wanted; `None` where the file has none.
pub(super) fn zone(
    config: &Config,
    file: &Path,
    domain: &Name,
    remove: bool,
) -> Option<anyhow::Result<Left>> {
    config.zones.iter().find(|zone| zone.name == domain.name)?;
    let left = || {
        let file = ConfigFile::at(file)?;
        let removed = remove && file.remove_zone(&domain.name)?;
        let keys = Store::new(&config.fixed.state, &domain.name).directory().to_owned();
        Ok(Left { domain: domain.clone(), file: file.path().into(), removed, keys })
    };
    Some(left())
}

impl Left {
    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({ "file": self.file, "removed": self.removed, "keys": self.keys })
    }

    /// For people. `told` is whether every relay gave the domain up.
    pub(super) fn lines(&self, told: bool) -> Vec<String> {
        let (name, file, keys) = (&self.domain.name, self.file.display(), self.keys.display());
        let mut lines = match (self.removed, told) {
            (true, _) => vec![
                format!("The [[zone]] of {name} was taken out of {file}. Have the agent read it:"),
                "  systemctl reload sealpost-agent".into(),
            ],
            (false, true) => vec![
                format!("The [[zone]] of {name} is still in {file}: this box goes on to make it."),
                format!("To take it out too:  sealpost-agent domain remove {name} --zone"),
            ],
            (false, false) => {
                return vec![format!(
                    "The [[zone]] of {name} stays in {file}, as relays may have the domain still"
                )];
            }
        };
        lines.extend([
            "Next, at the registrar: take the DS record out and wait until it is forgotten, a day as a \
             rule; then name other name servers, or give the domain up there. While the DS is there, \
             no other zone is valid."
                .into(),
            format!("Its keys stay in {keys}. Delete them yourself when the DS has gone for good."),
        ]);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_daemon::config::Source;

    #[test]
    fn what_is_left_is_said_and_keys_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, state) = (dir.path().join("agent.toml"), dir.path().join("state"));
        let text = format!("state = {state:?}\n[[zone]]\nname = \"a.example\"\n");
        std::fs::write(&file, &text).unwrap();
        let config = Config::from_source(&Source::from_text("agent.toml", &text)).unwrap();
        let domain: Name = "a.example".parse().unwrap();
        let key = Store::new(&state, &domain.name).entry_key();
        std::fs::create_dir_all(key.parent().unwrap()).unwrap();
        std::fs::write(&key, "x").unwrap();

        let stays = zone(&config, &file, &domain, false).unwrap().unwrap();
        let lines = stays.lines(true).join("\n");
        assert!(lines.contains("still in") && lines.contains("domain remove a.example --zone"));
        assert_eq!(stays.lines(false).len(), 1);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

        let gone = zone(&config, &file, &domain, true).unwrap().unwrap();
        let lines = gone.lines(true).join("\n");
        assert!(lines.contains("reload") && lines.contains("DS record"), "{lines}");
        assert!(lines.contains(&key.parent().unwrap().display().to_string()), "{lines}");
        assert_eq!(gone.json()["removed"], true);
        assert!(!std::fs::read_to_string(&file).unwrap().contains("zone") && key.exists());
        let other: Name = "b.example".parse().unwrap();
        assert!(zone(&config, &file, &other, true).is_none());
    }
}

//! Where this box keeps what it is: its configuration file and its directory, which `join` and
//! `recover` make when there are none.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sealpost_tunnel::{HostPort, PublicKey, RelayRef};

use super::config_file::{ConfigFile, ConfigFileError};
use super::edit::Entry;
use super::pins::Pins;
use super::template;
use crate::config::{Config, Relay};

/// The configuration file unless the owner names another.
pub const DEFAULT_FILE: &str = "/etc/sealpost/agent.toml";
/// The directory that goes with it; systemd gives it to the service.
const DEFAULT_STATE: &str = "/var/lib/sealpost-agent";
/// The longest name that is made from an address.
const MAX_NAME: usize = 32;

/// File and directory of this box.
pub struct Place {
    /// The file.
    pub file: ConfigFile,
    /// What it says, when there is one.
    pub config: Option<Config>,
    /// The directory with keys.
    pub state: PathBuf,
    service: HostPort,
}

impl Place {
    /// Looks at the file at `path`. `state` and `service` are for one that is to be made; where
    /// there is one they must agree with it.
    pub fn find(
        path: &Path,
        state: Option<&Path>,
        service: Option<&HostPort>,
    ) -> anyhow::Result<Self> {
        let file =
            ConfigFile::at(path).with_context(|| format!("cannot use {}", path.display()))?;
        let shown = file.path().display();
        let state = state.map(std::path::absolute).transpose()?;
        if !file.exists() {
            let state = state.unwrap_or_else(|| default_state(path, file.path()));
            let default = || template::MAIL_SERVER.parse();
            let service = service.cloned().map_or_else(default, Ok)?;
            return Ok(Self { config: None, state, service, file });
        }
        let config = Config::load(file.path())?;
        let there = std::path::absolute(&config.fixed.state)?;
        if state.is_some_and(|state| state != there) {
            bail!(
                "{shown} names the directory {}; --state is for a new file alone",
                config.fixed.state.display()
            );
        }
        let smtp = config.services.iter().find(|service| service.name.as_str() == "smtp");
        if let Some(service) = service
            && smtp.is_none_or(|smtp| smtp.address != *service)
        {
            bail!("--service is for a new file alone; write the address into {shown}");
        }
        let service = template::MAIL_SERVER.parse()?;
        Ok(Self { state: config.fixed.state.clone(), config: Some(config), service, file })
    }

    /// The relays of the file.
    pub fn relays(&self) -> &[Relay] {
        self.config.as_ref().map_or(&[], |config| &config.relays)
    }

    /// The relay of the file that is the same as the one with the key `pin`, which may have changed
    /// its key to `now`.
    pub fn relay(&self, pins: &Pins, pin: PublicKey, now: PublicKey) -> Option<&Relay> {
        let same = |relay: &&Relay| [relay.key, pins.trusted(relay.key)].iter().any(is(pin, now));
        self.relays().iter().find(same)
    }

    /// The entry for `relay`, whose key is `key` now; with a name that the file does not have.
    pub fn entry(&self, relay: &RelayRef, key: PublicKey, taken: &[Entry]) -> Entry {
        let mut names: Vec<&str> = self.relays().iter().map(|relay| relay.name.as_str()).collect();
        names.extend(taken.iter().map(|entry| entry.name.as_str()));
        let name = free_name(&relay.addresses, &names);
        Entry { name, addresses: relay.addresses.clone(), key }
    }

    /// Makes the file with `entries`, or adds those to it that it does not have.
    pub fn write(&self, entries: &[Entry]) -> Result<(), ConfigFileError> {
        if self.config.is_none() {
            return self.file.create(&template::file(&self.state, entries, &self.service));
        }
        entries.iter().try_for_each(|entry| self.file.add(entry).map(drop))
    }
}

fn is(pin: PublicKey, now: PublicKey) -> impl Fn(&PublicKey) -> bool {
    move |key| *key == pin || *key == now
}

/// For the usual file the directory that systemd gives to the service; for another one beside it.
fn default_state(named: &Path, path: &Path) -> PathBuf {
    if named == Path::new(DEFAULT_FILE) || path == Path::new(DEFAULT_FILE) {
        return DEFAULT_STATE.into();
    }
    path.parent().unwrap_or(Path::new("/")).join("sealpost-agent")
}

/// The first label of the first host name, or the whole address; with a number if it is taken.
fn free_name(addresses: &[HostPort], taken: &[&str]) -> String {
    let hosts = || addresses.iter().filter_map(|a| Some(a.as_str().rsplit_once(':')?.0));
    let named = |host: &&str| !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err();
    let name = match hosts().find(named) {
        Some(host) => host.split('.').next().unwrap_or(host),
        None => hosts().next().unwrap_or("relay"),
    };
    let name: String = name.chars().take(MAX_NAME).collect();
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = |name: &String| !taken.contains(&name.as_str());
    std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    #[test]
    fn relays_are_called_after_their_host() {
        let name = |addresses: &[&str], taken: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            free_name(&addresses, taken)
        };
        assert_eq!(name(&["198.51.100.1:4433", "r1.example.net:4433"], &[]), "r1");
        assert_eq!(name(&["r1.example.org:4433"], &["r1", "r1-2"]), "r1-3");
        assert_eq!(name(&["198.51.100.1:4433"], &[]), "198.51.100.1");
        assert_eq!(name(&["[2001:db8::1]:4433"], &[]), "[2001:db8::1]");
        assert_eq!(name(&["localhost:1"], &[]), "localhost");
    }

    #[test]
    fn a_box_without_a_file_gets_one_and_a_second_relay_goes_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let service = "127.0.0.1:2526".parse().unwrap();
        let place = Place::find(&path, None, Some(&service)).unwrap();
        assert_eq!(place.state, dir.path().join("sealpost-agent"));
        let relay = |address: &str| RelayRef {
            addresses: vec![address.parse().unwrap()],
            key: Identity::ephemeral().public(),
        };
        let (first, second) = (relay("r.example.net:1"), relay("r.example.org:1"));
        let entry = place.entry(&first, first.key, &[]);
        place.write(std::slice::from_ref(&entry)).unwrap();

        let place = Place::find(&path, Some(&place.state), Some(&service)).unwrap();
        let pins = Pins::new(&place.state);
        assert_eq!(place.relay(&pins, first.key, first.key).unwrap().name, "r");
        let now = Identity::ephemeral().public();
        assert!(place.relay(&pins, now, first.key).is_some(), "the relay has changed its key");
        assert!(place.relay(&pins, second.key, second.key).is_none());
        let other = place.entry(&second, second.key, &[]);
        assert_eq!(other.name, "r-2");
        place.write(&[entry, other]).unwrap();
        assert_eq!(Config::load(&path).unwrap().relays.len(), 2);

        for (state, service) in [(Some("/elsewhere"), None), (None, Some("127.0.0.1:9"))] {
            let service = service.map(|text: &str| text.parse().unwrap());
            assert!(Place::find(&path, state.map(Path::new), service.as_ref()).is_err());
        }
    }
}

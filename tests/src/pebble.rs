//! A certificate authority (Let's Encrypt's Pebble) on the internet. It looks names up with the
//! resolver of everybody, and checks every challenge.

use std::time::Duration;

use anyhow::Result;

use crate::certificate::{Authority, CERTIFICATE_FILE, KEY_FILE};
use crate::machine::Machine;
use crate::network::{NAME_SERVER, Network};
use crate::process::Process;
use crate::signed_internet::SignedInternet;
use crate::smtp;
use crate::wait::wait_until;

const NAME: &str = "acme.world";
const ADDRESS: &str = "198.51.100.14";
const PORT: u16 = 14000;
const FILE: &str = "/etc/pebble.json";
/// Where [`Pebble::introduce`] puts the certificate of the authority of Pebble's own web server.
pub const CA_FILE: &str = "/etc/ssl/acme-ca.pem";
/// What an ACME client is told as the directory.
pub const DIRECTORY: &str = "https://acme.world:14000/dir";

/// It runs until this is dropped. Its accounts and orders are gone then.
#[derive(Debug)]
pub struct Pebble {
    ca: String,
    _process: Process,
}

impl Pebble {
    /// Starts it. Its certificates are good for so many seconds of the true time, which is the only
    /// one that it knows.
    pub fn start(
        network: &Network,
        internet: &mut SignedInternet<'_>,
        validity: u32,
    ) -> Result<Pebble> {
        let machine = &network.internet;
        machine.run(&format!("ip address add {ADDRESS}/24 dev sender"))?;
        internet.host(NAME, ADDRESS)?;
        let authority = Authority::new()?;
        authority.certify(&[NAME.to_owned()])?.install(machine)?;
        machine.write(
            FILE,
            &format!(
                r#"{{ "pebble": {{
                    "listenAddress": "{ADDRESS}:{PORT}",
                    "managementListenAddress": "{ADDRESS}:15000",
                    "certificate": "{CERTIFICATE_FILE}",
                    "privateKey": "{KEY_FILE}",
                    "httpPort": 80,
                    "tlsPort": 443,
                    "certificateValidityPeriod": {validity}
                }} }}"#
            ),
        )?;
        let server = format!("{NAME_SERVER}:53");
        // Every certificate needs a challenge of its own; one request in twenty is refused for its
        // nonce, as Pebble does it if nobody says otherwise.
        let environment = ["env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"];
        let command = ["pebble", "-strict", "-config", FILE, "-dnsserver", &server];
        let process = Process::start(machine, "pebble", &[&environment[..], &command].concat())?;
        wait_until("Pebble to listen", Duration::from_secs(10), || {
            Ok(smtp::connect(machine, ADDRESS, PORT).is_ok())
        })?;
        Ok(Pebble { ca: authority.pem().to_owned(), _process: process })
    }

    /// Puts what is needed to trust it at [`CA_FILE`].
    pub fn introduce(&self, machine: &Machine) -> Result<()> {
        machine.write(CA_FILE, &self.ca)
    }
}

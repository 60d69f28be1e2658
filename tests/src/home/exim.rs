//! Debian's Exim as the mail server at home, under the configuration that Debian generates.

use anyhow::Result;

use super::{HomeServer, furnish, wait_until_gone, wait_until_listening};
use crate::certificate::{CERTIFICATE_FILE, KEY_FILE};
use crate::exim;
use crate::machine::Machine;
use crate::message::FROM;

/// What `dpkg-reconfigure exim4-config` asks, answered for a mail server of `home.example`.
const ANSWERS: &str = "\
dc_eximconfig_configtype='internet'
dc_other_hostnames='home.example'
dc_local_interfaces='127.0.0.1'
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='false'
dc_relay_nets=''
dc_smarthost=''
CFILEMODE='644'
dc_use_split_config='false'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='maildir_home'
";

/// `exim4-daemon-heavy`, which knows the PROXY protocol.
#[derive(Debug)]
pub struct Exim;

impl HomeServer for Exim {
    fn tree(&self) -> &'static str {
        "exim-heavy"
    }

    fn snippet(&self) -> &'static str {
        include_str!("../../../docs/src/how-to/exim-sealpost.conf")
    }

    fn start(&self, machine: &Machine, snippet: &str) -> Result<()> {
        furnish(machine)?;
        exim::add_user(machine)?;
        machine.write("/etc/exim4/update-exim4.conf.conf", ANSWERS)?;
        machine.write("/etc/exim4/exim4.conf.localmacros", snippet)?;
        machine.run(&format!(
            "mkdir -p /run/exim4 /var/lib/exim4
             chown Debian-exim /run/exim4
             cp {CERTIFICATE_FILE} /etc/exim4/exim.crt
             cp {KEY_FILE} /etc/exim4/exim.key
             chgrp Debian-exim /etc/exim4/exim.key
             chmod 640 /etc/exim4/exim.key
             update-exim4.conf
             exim4 -bd"
        ))?;
        wait_until_listening(machine)
    }

    fn stop(&self, machine: &Machine) -> Result<()> {
        machine.run("kill $(cat /run/exim4/exim.pid)")?;
        wait_until_gone(machine)
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(exim::LOG)
    }

    fn took_sealed(&self, log: &str, client: &str) -> bool {
        let client = format!("[{client}]");
        log.lines().any(|line| {
            [&format!(" <= {FROM} "), &client, "P=esmtps", " X=TLS"]
                .iter()
                .all(|part| line.contains(*part))
        })
    }

    fn sending_on(&self) -> &'static str {
        "T=remote_smtp"
    }
}

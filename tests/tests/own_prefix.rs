//! A whole IPv6 prefix for one listener: every box has an address of its own, by arithmetic.

use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use sealpost_tests::machine::Machine;
use sealpost_tests::network::FURTHER_BOX;
use sealpost_tests::network::{RELAY_SHARED_V6, SENDER_V6};
use sealpost_tests::postfix;
use sealpost_tests::scene::{From, Setup, scenario};
use sealpost_tests::sealpost::{
    self, RelayFile, agent_does, configure_relay, expect_status, invite, relay_says,
};
use sealpost_tests::sender::Tls;
use sealpost_tests::smtp::up_to_tls;
use sealpost_tests::tls_client::{TlsClient, expect_alert};
use std::time::Duration;

/// Of the first box, whose number is 256.
const FIRST: &str = "2001:db8:7::100";
const NOBODY: &str = "2001:db8:7::ffff";

/// The TLS alert for a connection that names nobody, see rule R4.
const UNRECOGNIZED_NAME: u8 = 112;

#[test]
fn a_box_gets_mail_without_a_name_on_its_address_of_the_prefix() -> Result<()> {
    let from = From::Postfix(Tls::Opportunistic);
    let setup = Setup { from, mx: FIRST, agent: false, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let relay = &scene.network.relay;
        relay.run("ip -6 route add local 2001:db8:7::/64 dev lo")?;
        let route = format!("ip -6 route add 2001:db8:7::/64 via {RELAY_SHARED_V6}");
        scene.network.internet.run(&route)?;
        let more = "own_prefix = \"2001:db8:7::/64\"\n";
        configure_relay(relay, RelayFile { more, ..RelayFile::FIRST })?;
        scene.relay.signal(relay, "TERM")?;
        scene.relay.wait(Duration::from_secs(20))?;
        scene.relay = sealpost::start_relay(relay)?;
        scene.start_agent(1)?;

        let relay = &scene.network.relay;
        let addresses = &relay_says(relay, "boxes show home")?["addresses"];
        let addresses = addresses.as_array().context("the addresses of the box")?;
        ensure!(addresses.iter().any(|address| address == FIRST), "{addresses:?}");
        scene.deliver("to the address of a box")?;
        scene.expect_first_attempt()?;
        let session = scene.relay_log().expect_transfer()?;
        ensure!(session["sni"] == "", "a name was sent: {session}");
        ensure!(session["local"].as_str().is_some_and(|local| local.contains(FIRST)), "{session}");
        ensure!(postfix::log(&scene.network.home).contains(&format!("[{SENDER_V6}]")));

        let mut stream = scene.connect(NOBODY)?;
        up_to_tls(&mut stream)?;
        // For an address a client sends no name.
        stream.write_all(TlsClient::new("192.0.2.99", &scene.certificate)?.hello())?;
        let alert = expect_alert(&mut stream)?;
        ensure!(alert == UNRECOGNIZED_NAME, "alert {alert}");
        let refused = scene.relay_log().expect_session("sni-absent")?;
        ensure!(refused["local"].as_str().is_some_and(|local| local.contains(NOBODY)), "{refused}");

        let before = listening(&scene.network.relay)?;
        let url = invite(&scene.network.relay, "bob")?;
        let other = scene.network.add(FURTHER_BOX, &[])?;
        agent_does(&other, &format!("join '{url}' --yes"))?;
        let relay = &scene.network.relay;
        let second = &relay_says(relay, "boxes show bob")?["addresses"][0];
        ensure!(second == "2001:db8:7::101", "{second}");
        let after = listening(relay)?;
        ensure!(before == after, "sockets for a box: before\n{before}after\n{after}");
        expect_status(&scene.network.home, &["relay   r1           up"]).map(drop)
    })
}

/// The addresses at which the relay takes mail, one a line.
fn listening(relay: &Machine) -> Result<String> {
    relay.run("ss --no-header --tcp --listening --numeric 'sport = :25' | awk '{print $4}' | sort")
}

//! Senders that name nobody, at addresses that boxes share: the order of two addresses names the box.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::network::{PAIRS, RELAY_FIRST_V4, RELAY_SECOND_V4, RELAY_SHARED_V4, SENDER_V4};
use sealpost_tests::scene::{From, Scene, Setup, scenario};
use sealpost_tests::sealpost::relay_says;
use sealpost_tests::sender::Tls;
use sealpost_tests::smtp::{self, command, reply, up_to_tls};
use sealpost_tests::tls_client::{TlsClient, expect_alert};

/// The TLS alert for a connection that names nobody, see rule R4.
const UNRECOGNIZED_NAME: u8 = 112;
/// The type of the TLS record in which a server answers a ClientHello.
const HANDSHAKE: u8 = 22;

#[test]
fn postfix_gets_through_by_the_second_exchanger() -> Result<()> {
    gets_through_by_the_second_exchanger(From::Postfix(Tls::Opportunistic))
}

#[test]
fn exim_gets_through_by_the_second_exchanger() -> Result<()> {
    gets_through_by_the_second_exchanger(From::Exim(Tls::Opportunistic))
}

fn gets_through_by_the_second_exchanger(from: From) -> Result<()> {
    scenario(Setup { from, relay: PAIRS, ..Setup::STANDARD }, |scene| {
        let (first, second) = pair(scene)?;
        scene.zone = format!(
            "home.example. IN MX 20 a.mx.home.example.\nhome.example. IN MX 30 b.mx.home.example.\n\
             a.mx.home.example. IN A {first}\nb.mx.home.example. IN A {second}\n\
             mail.sender.example. IN A {SENDER_V4}\n"
        );
        scene.publish("")?;
        for number in 1..=3 {
            scene.deliver(&format!("message {number} without a name"))?;
            scene.expect_first_attempt()?;
        }
        let refused = scene.relay_log().expect_session("sni-absent")?;
        ensure!(refused["local"].as_str().is_some_and(|local| local.contains(&first)), "{refused}");
        let carried = scene.relay_log().expect_transfer()?;
        ensure!(
            carried["local"].as_str().is_some_and(|local| local.contains(&second)),
            "{carried}"
        );
        ensure!(carried["sni"] == "" && carried["box"] == "home", "{carried}");
        let counted = [
            ("pairs_total{outcome=\"hit\"}", 3.0),
            ("pairs_total{outcome=\"missed\"}", 0.0),
            ("pairs_total{outcome=\"ambiguous\"}", 0.0),
            ("client_hellos_total{named=\"match\"}", 0.0),
        ];
        admin::expect_metrics(&scene.network.relay, &counted)
    })
}

#[test]
fn the_way_must_be_the_whole_pair_in_its_order() -> Result<()> {
    scenario(Setup { from: From::Scenario, relay: PAIRS, ..Setup::STANDARD }, |scene| {
        let (first, second) = pair(scene)?;
        let other = |of: [&'static str; 2], one: &str| of.into_iter().find(|it| *it != one);
        let other_first = other(RELAY_FIRST_V4, &first).context("another first address")?;
        let other_second = other(RELAY_SECOND_V4, &second).context("another second address")?;

        // Out of nowhere, from an address that is in no pair, by another pair, backwards. A client
        // of its own for each: what one did would be in the way of the next.
        for (client, way) in (20..).zip([
            &[second.as_str()][..],
            &[RELAY_SHARED_V4, &second],
            &[other_first, &second],
            &[&first, other_second],
            &[&second, &first],
        ]) {
            let client = Client::new(scene, client)?;
            for address in way {
                client.is_refused(address)?;
            }
        }
        // As Sendmail does: a failure in TLS, and the next exchanger at once.
        let client = Client::new(scene, 30)?;
        client.is_refused(&first)?;
        client.is_led_home(&second)?;
        // That was one message, and does not lead another one there.
        client.is_refused(&second)?;
        // As Exim does: once more without TLS, and then the next exchanger.
        let client = Client::new(scene, 31)?;
        client.is_refused(&first)?;
        let mut again = client.connect(&first)?;
        reply(&mut again)?;
        command(&mut again, "EHLO mail.sender.example", "250")?;
        command(&mut again, "MAIL FROM:<bob@sender.example>", "451")?;
        client.is_led_home(&second)?;
        // By both first addresses to one second address: two boxes could be meant, if there were
        // two. As there is one, it is the one.
        let client = Client::new(scene, 32)?;
        client.is_refused(other_first)?;
        client.is_refused(&first)?;
        client.is_led_home(&second)?;
        let counted = [
            ("pairs_total{outcome=\"hit\"}", 3.0),
            // Once in each of the five ways that lead nowhere, and the message that came too often.
            ("pairs_total{outcome=\"missed\"}", 6.0),
        ];
        admin::expect_metrics(&scene.network.relay, &counted)
    })
}

/// A mail server with an address of its own that names nobody.
struct Client<'a> {
    scene: &'a Scene,
    address: String,
}

impl Client<'_> {
    fn new(scene: &Scene, number: u8) -> Result<Client<'_>> {
        let address = format!("198.51.100.{number}");
        scene.network.sender.run(&format!("ip address add {address}/24 dev eth0"))?;
        Ok(Client { scene, address })
    }

    fn connect(&self, to: &str) -> Result<TcpStream> {
        smtp::connect_from(&self.scene.network.sender, &self.address, to, 25)
    }

    /// Its message is refused at `address`.
    fn is_refused(&self, address: &str) -> Result<()> {
        let mut stream = self.connect(address)?;
        up_to_tls(&mut stream).with_context(|| address.to_owned())?;
        stream.write_all(nameless(self.scene)?.hello())?;
        let alert = expect_alert(&mut stream).with_context(|| address.to_owned())?;
        ensure!(alert == UNRECOGNIZED_NAME, "alert {alert} at {address}");
        Ok(())
    }

    /// Its message comes to the mail server at home by `address`.
    fn is_led_home(&self, address: &str) -> Result<()> {
        let mut stream = self.connect(address)?;
        up_to_tls(&mut stream)?;
        stream.write_all(nameless(self.scene)?.hello())?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        ensure!(first == [HANDSHAKE], "a TLS record of type {} came from home", first[0]);
        Ok(())
    }
}

/// The two addresses that the box has at its relay.
fn pair(scene: &Scene) -> Result<(String, String)> {
    let shown = relay_says(&scene.network.relay, "boxes show home")?;
    let pair = &shown["pairs"][0];
    let text = |name: &str| pair[name].as_str().map(str::to_owned).context(shown.to_string());
    Ok((text("first")?, text("second")?))
}

/// For an address a client sends no name.
fn nameless(scene: &Scene) -> Result<TlsClient> {
    TlsClient::new("192.0.2.99", &scene.certificate)
}

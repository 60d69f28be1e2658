//! The shield before a box: whom it keeps out and how it says so, that real mail comes through it
//! in the end, and that a box whose owner does not want it never meets it.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::machine::Machine;
use sealpost_tests::message::Message;
use sealpost_tests::network::{RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4};
use sealpost_tests::scene::{From, MX_NAME, Scene, Setup, scenario};
use sealpost_tests::sealpost::{AGENT_FILE, RelayFile, configure_relay, expect_tunnel};
use sealpost_tests::sender::Tls;
use sealpost_tests::smtp::{reply, up_to_tls};
use sealpost_tests::tls_client::{TlsClient, expect_alert};
use sealpost_tests::wait::wait_until;
use sealpost_tests::zones::{Zone, Zones};

/// The name server of the lists.
const LISTS: &str = "198.51.100.53";
/// On which the sender stands.
const GOOD: Zone<'_> = Zone { origin: "bl.lists.example.", file: "good" };
/// Which answers to nobody, by the address that lists use for that.
const CLOSED: Zone<'_> = Zone { origin: "closed.example.", file: "closed" };
/// Whose zone cannot be read, so that each question meets a SERVFAIL.
const BROKEN: Zone<'_> = Zone { origin: "broken.example.", file: "there-is-no-such-file" };

/// The TLS alert of a relay that cannot serve a connection now, see rule R4.
const INTERNAL_ERROR: u8 = 80;

const SOON: Duration = Duration::from_secs(30);

const ALL_ON: &str = "greet_pause = \"1s\", resolvers = [\"198.51.100.53:53\"], \
     lists = [\"closed.example\", \"broken.example\", \"bl.lists.example\"], \
     prefix_rate = { per_minute = 60000 }, box_rate = { per_minute = 60000 }";

#[test]
fn a_shield_keeps_out_whom_it_should_and_only_from_a_box_that_wants_it() -> Result<()> {
    let from = From::Postfix(Tls::Opportunistic);
    let setup = Setup { from, mx: RELAY_OWN_V4, ..Setup::STANDARD };
    scenario(setup, |scene| {
        serve_lists(&scene.network.internet)?;
        set_shield(scene, 1, ALL_ON)?;
        a_box_that_does_not_want_it_never_meets_it(scene)?;

        want_shield(scene)?;
        let message = who_is_listed_is_put_off(scene)?;
        take_off(&scene.network.internet)?;
        scene.arrives_after_retries(&scene.network.home, &message)?;
        let start = Instant::now();
        greeting(scene, RELAY_OWN_V4, "220")?;
        ensure!(start.elapsed() >= Duration::from_secs(1), "no pause");
        who_speaks_first_or_leaves_is_gone(scene)?;

        // Lists that refuse to answer, or cannot, have been asked all the time.
        for outcome in ["listed", "clear", "refused", "failed"] {
            let name = format!("sealpost_relay_lists_total{{outcome=\"{outcome}\"}}");
            let count = admin::metric(&scene.network.relay, admin::RELAY, &name)?;
            ensure!(count >= Some(1.0), "{name}: {count:?}");
        }
        let useless = scene.relay_log().matching("a list is of no use", &[]);
        ensure!(useless.len() == 1 && useless[0]["list"] == "closed.example", "{useless:?}");

        set_shield(scene, 2, "prefix_rate = { per_minute = 1, burst = 3 }")?;
        for _ in 0..3 {
            greeting(scene, RELAY_OWN_V4, "220")?;
        }
        greeting(scene, RELAY_OWN_V4, "421 4.7.0 Too many connections from your network")?;
        greeting(scene, RELAY_OWN_V6, "220")?;
        refused_on_the_shared_address(scene, "rate-prefix", 2)?;

        set_shield(scene, 3, "box_rate = { per_minute = 1, burst = 2 }")?;
        greeting(scene, RELAY_OWN_V4, "220")?;
        greeting(scene, RELAY_OWN_V6, "220")?;
        greeting(scene, RELAY_OWN_V6, "421 4.7.0 Too many connections, ")?;
        refused_on_the_shared_address(scene, "rate-box", 2)?;

        set_shield(scene, 4, "greet_pause = \"10s\"")?;
        a_relay_that_leaves_does_not_wait_for_the_pause(scene)
    })
}

fn a_box_that_does_not_want_it_never_meets_it(scene: &Scene) -> Result<()> {
    let mut hasty = scene.connect(RELAY_OWN_V4)?;
    hasty.write_all(b"EHLO hasty.example\r\n")?;
    ensure!(reply(&mut hasty)?.starts_with("220"));
    ensure!(reply(&mut hasty)?.starts_with("250"));
    scene.deliver("from a sender that is listed")?;
    scene.expect_first_attempt()
}

fn who_is_listed_is_put_off(scene: &Scene) -> Result<Message> {
    let message = Message::small("when it is not listed any more");
    scene.send(&message)?;
    let reason = scene.expect_deferred()?;
    ensure!(reason.contains("421 4.7.0 Your address is on a list of lists.example"), "{reason}");
    scene.relay_log().expect_session("listed")?;
    refused_on_the_shared_address(scene, "listed", 2)?;
    Ok(message)
}

fn who_speaks_first_or_leaves_is_gone(scene: &Scene) -> Result<()> {
    let mut hasty = scene.connect(RELAY_OWN_V4)?;
    hasty.write_all(b"EHLO hasty.example\r\nMAIL FROM:<a@b.example>\r\n")?;
    let mut said = String::new();
    hasty.read_to_string(&mut said)?;
    ensure!(said == "421 4.5.1 Wait for the greeting, try again\r\n", "{said:?}");
    scene.relay_log().expect_session("pregreet")?;

    drop(scene.connect(RELAY_OWN_V4)?);
    scene.relay_log().expect_session("disconnected").map(drop)
}

fn a_relay_that_leaves_does_not_wait_for_the_pause(scene: &mut Scene) -> Result<()> {
    expect_open(scene, 0.0)?;
    let mut waiting = scene.connect(RELAY_OWN_V4)?;
    expect_open(scene, 1.0)?;
    scene.relay.signal(&scene.network.relay, "TERM")?;
    let said = reply(&mut waiting)?;
    ensure!(said.starts_with("421 4.3.2"), "{said}");
    scene.relay_log().expect_session("draining").map(drop)
}

/// Waits until the relay has so many connections from senders.
fn expect_open(scene: &Scene, count: f64) -> Result<()> {
    wait_until(&format!("{count} open sessions"), SOON, || {
        let name = "sealpost_relay_sessions_open";
        Ok(admin::metric(&scene.network.relay, admin::RELAY, name)? == Some(count))
    })
}

/// Demands this greeting, and after a 421 the end.
fn greeting(scene: &Scene, mx: &str, start: &str) -> Result<()> {
    let mut stream = scene.connect(mx)?;
    let said = reply(&mut stream)?;
    ensure!(said.starts_with(start), "{said:?} and not {start}");
    if start.starts_with("421") {
        let rest = stream.read(&mut [0])?;
        ensure!(rest == 0, "more after {said:?}");
    }
    Ok(())
}

/// Demands the alert for a ClientHello with the box's name, and that `count` sessions now ended so.
fn refused_on_the_shared_address(scene: &Scene, outcome: &str, count: usize) -> Result<()> {
    let mut stream = scene.connect(RELAY_SHARED_V4)?;
    up_to_tls(&mut stream)?;
    stream.write_all(TlsClient::new(MX_NAME, &scene.certificate)?.hello())?;
    let alert = expect_alert(&mut stream)?;
    ensure!(alert == INTERNAL_ERROR, "alert {alert}");
    let fields = [("outcome", outcome)];
    scene.relay_log().expect_nth(count, "session", &fields, SOON)?;
    Ok(())
}

/// Makes the relay read its file again, for the `count`th time, with this `[shield]`.
fn set_shield(scene: &mut Scene, count: usize, shield: &str) -> Result<()> {
    let more = format!("shield = {{ {shield} }}\n");
    configure_relay(&scene.network.relay, RelayFile { more: &more, ..RelayFile::FIRST })?;
    scene.relay.signal(&scene.network.relay, "HUP")?;
    scene.relay_log().expect_nth(count, "reloaded", &[], SOON).map(drop)
}

/// Has the owner of the box say that the shield shall stand before it.
fn want_shield(scene: &mut Scene) -> Result<()> {
    let file = scene.network.home.read(AGENT_FILE);
    let wanted = file.replacen("[[relay]]\n", "[[relay]]\nshield = true\n", 1);
    ensure!(wanted != file, "{file}");
    scene.network.home.write(AGENT_FILE, &wanted)?;
    scene.reload_agent()?;
    expect_tunnel(&scene.network.home, 2)?;
    scene.relay_log().expect_nth(2, "box connected", &[], SOON).map(drop)
}

fn serve_lists(machine: &Machine) -> Result<()> {
    let mut zones = Zones::on(machine);
    // One second, as the absence of this record shall be noticed soon.
    let listed = "10.100.51.198.bl.lists.example. 1 A 127.0.0.2";
    zones.write(GOOD, &format!("bl.lists.example. NS ns.world.\n{listed}"))?;
    let refusal = "*.closed.example. A 127.255.255.254";
    zones.write(CLOSED, &format!("closed.example. NS ns.world.\n{refusal}"))?;
    zones.serve(LISTS, &[GOOD, CLOSED, BROKEN])
}

fn take_off(machine: &Machine) -> Result<()> {
    machine.run("sed -i '/127.0.0.2/d; s/ 1 3600 / 2 3600 /' /etc/zones/good")?;
    Zones::on(machine).reload(LISTS, GOOD)
}

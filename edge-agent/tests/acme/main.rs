//! Certificates from Debian's pebble, which rejects one nonce in five, for a zone on Knot and NSD.
//!
//! The zone is published from what the keeper wishes, as the agent does it, but without the relays'
//! part, and with records that live for two seconds.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod lab;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lab::{BLOCKED, Lab, MARGIN, TTL, https};

const DOMAIN: &str = "home.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_comes_is_renewed_with_another_key_and_outlives_restarts() {
    let Some(lab) = Lab::start(DOMAIN).await else { return };
    let Lab { zone, ca, mail, .. } = &lab;
    let own = mail.key();
    let start = || lab.keep(lab.settings(""));

    let mut running = start();
    let first = running
        .until("a certificate is installed and the next key is ready", |it| {
            it.not_after.is_some() && it.next_key.is_some() && it.waiting.is_none()
        })
        .await;
    let (first_key, shown_at) = (mail.key(), Instant::now());
    assert_ne!(first_key, own);
    assert_eq!(first.names, ["mx.home.example", "mx2.home.example"]);
    assert!(first.account.is_some() && first.error.is_none(), "{first:?}");
    let in_zone = zone.history.lock().unwrap().keys[&first_key].0;
    assert!(shown_at - in_zone >= Duration::from_secs(u64::from(TTL) + MARGIN));
    assert!(lab.state().join("certificates/mail.key").exists());

    // A restart orders nothing.
    running.stop().await;
    let issued = ca.said("Issued certificate");
    let mut running = start();
    running.until("the report is there again", |it| it.not_after.is_some()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((ca.said("Issued certificate"), mail.key()), (issued, first_key));

    // While the key changes, what is shown is always in the zone, and was for the TTL.
    running.certificate.renew();
    let until = Instant::now() + lab::PATIENCE;
    while mail.key() == first_key {
        assert!(Instant::now() < until, "{:?}", running.certificate.report());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let shown = mail.key();
        let (since, gone) = zone.history.lock().unwrap().keys[&shown];
        assert!(gone.is_none() && since.elapsed() >= Duration::from_secs(u64::from(TTL)));
    }
    let changed = Instant::now();
    let second_key = mail.key();
    while zone.history.lock().unwrap().keys[&first_key].1.is_none() {
        assert!(Instant::now() < until, "{:?}", running.certificate.report());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(changed.elapsed() >= Duration::from_secs(u64::from(TTL)), "the old one stays a while");
    assert_eq!(mail.key(), second_key);
    assert!(zone.history.lock().unwrap().keys[&second_key].1.is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_lags_is_named_and_waited_for() {
    let Some(lab) = Lab::start(DOMAIN).await else { return };
    let Lab { zone, ca, .. } = &lab;
    let settings = lab.settings("challenge_timeout = \"4s\"\nkey_type = \"rsa-2048\"");
    zone.second_follows.store(false, Ordering::Relaxed);
    let mut running = lab.keep(settings);
    let report = running.until("the failure is told", |it| it.error.is_some()).await;
    let error = report.error.unwrap();
    assert!(error.contains("ns2.home.example (127.0.0.1) lacks the challenge"), "{error}");
    assert!(!error.contains("ns1.home.example"), "{error}");
    assert_eq!(ca.said("Issued certificate"), 0);
    let waiting = report.waiting.unwrap();
    assert!(waiting.contains("ns2.home.example (127.0.0.1) lacks the TLSA"), "{waiting}");
    assert!(report.retry_at.is_some());

    // The order is gone on with, once the owner asks for it.
    zone.second_follows.store(true, Ordering::Relaxed);
    zone.load();
    running.certificate.renew();
    let report = running.until("it is installed", |it| it.not_after.is_some()).await;
    assert_eq!(report.error, None);
    assert_eq!(ca.said("Issued certificate"), 1);
    assert_eq!(ca.said("Added order"), 1, "one order was enough");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_died_is_named_and_passed_over_in_the_end() {
    let Some(lab) = Lab::start(DOMAIN).await else { return };
    let Lab { zone, ca, mail, .. } = &lab;
    let own = mail.key();
    zone.kill_second();
    let mut running = lab.keep(lab.settings("challenge_timeout = \"2s\"\npass_over = \"6s\""));
    let report = running
        .until("the dead one is named", |it| {
            it.waiting.as_ref().is_some_and(|it| it.contains("ns2.home.example (127.0.0.1)"))
        })
        .await;
    assert_eq!((report.not_after, mail.key()), (None, own));
    running.until("a certificate is installed", |it| it.not_after.is_some()).await;
    assert_eq!(ca.said("Issued certificate"), 1);
    // Not before all others had the record for that long.
    let since = zone.history.lock().unwrap().keys[&mail.key()].0;
    let wait = Duration::from_secs(6 + u64::from(TTL) + MARGIN);
    assert!(since.elapsed() >= wait, "{:?}", since.elapsed());
    let named = |notes: &Vec<String>| {
        notes.iter().any(|it| it.contains("passed over") && it.contains("ns2.home.example"))
    };
    running.until("it is told who was passed over", |it| named(&it.notes)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_keeps_its_old_key_is_told_of_and_nothing_leaves_the_zone() {
    let Some(lab) = Lab::start(DOMAIN).await else { return };
    let Lab { zone, mail, .. } = &lab;
    let mut settings = lab.settings("");
    settings.reload = vec!["/bin/false".into()];
    let mut running = lab.keep(settings);
    let report = running
        .until("it is told", |it| it.waiting.as_ref().is_some_and(|it| it.contains("another key")))
        .await;
    assert!(report.not_after.is_some());
    let installed = report.key.unwrap();
    std::fs::copy(mail.given(), &mail.file).unwrap();
    running.until("it is put right", |it| it.waiting.is_none()).await;
    assert_eq!(mail.key().map(|it| format!("{it:02x}")).concat(), installed);
    assert!(zone.history.lock().unwrap().keys.values().all(|(_, gone)| gone.is_none()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_ca_is_said() {
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = elsewhere.path().join("stranger.pem");
    std::fs::write(&stranger, https().0).unwrap();
    for (domain, case, words) in [
        (DOMAIN, "away", "cannot be reached"),
        (DOMAIN, "stranger", "does not prove who it is"),
        (BLOCKED, "blocked", "rejectedIdentifier"),
        (DOMAIN, "profile", "has no profile `short`"),
    ] {
        let Some(lab) = Lab::start(domain).await else { return };
        let mut settings = lab.settings("");
        match case {
            "away" => settings.directory = "https://127.0.0.1:1/dir".into(),
            "stranger" => settings.ca = Some(stranger.clone()),
            "profile" => settings.profile = Some("short".into()),
            _ => {}
        }
        let mut running = lab.keep(settings);
        let report = running.until(case, |it| it.error.is_some()).await;
        let error = report.error.unwrap();
        assert!(error.contains(words), "{case}: {error}");
        assert!(report.retry_at.is_some());
        running.stop().await;
    }
}

//! Certificates from Debian's pebble, which rejects one nonce in five, for a zone on Knot and NSD.
//!
//! The zone is published from what the keeper wishes, as the agent does it, but without the relays'
//! part, and with records that live for two seconds.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod lab;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lab::{BLOCKED, Ca, MARGIN, MailServer, Running, TTL, Zone, can_run, https, settings};
use sealpost_agent::publish::Wishes;

const DOMAIN: &str = "home.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_comes_is_renewed_with_another_key_and_outlives_restarts() {
    if !can_run() {
        return;
    }
    let (wishes, state) = (Wishes::default(), tempfile::tempdir().unwrap());
    let zone = Zone::start(DOMAIN, &wishes).unwrap();
    let ca = Ca::start(zone.dns()).unwrap();
    let mail = MailServer::start().await;
    let own = mail.key();
    let settings = settings(&ca.directory, &ca.trust, &mail, "");
    let start =
        || Running::start(state.path(), settings.clone(), &wishes, &zone, vec![mail.service()]);

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
    assert!(state.path().join("certificates/mail.key").exists());

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
    if !can_run() {
        return;
    }
    let (wishes, state) = (Wishes::default(), tempfile::tempdir().unwrap());
    let zone = Zone::start(DOMAIN, &wishes).unwrap();
    let ca = Ca::start(zone.dns()).unwrap();
    let mail = MailServer::start().await;
    let settings = settings(
        &ca.directory,
        &ca.trust,
        &mail,
        "challenge_timeout = \"4s\"\nkey_type = \"rsa-2048\"",
    );
    zone.second_follows.store(false, Ordering::Relaxed);
    let mut running = Running::start(state.path(), settings, &wishes, &zone, vec![mail.service()]);
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
async fn a_mail_server_that_keeps_its_old_key_is_told_of_and_nothing_leaves_the_zone() {
    if !can_run() {
        return;
    }
    let (wishes, state) = (Wishes::default(), tempfile::tempdir().unwrap());
    let zone = Zone::start(DOMAIN, &wishes).unwrap();
    let ca = Ca::start(zone.dns()).unwrap();
    let mail = MailServer::start().await;
    let mut settings = settings(&ca.directory, &ca.trust, &mail, "");
    settings.reload = vec!["/bin/false".into()];
    let mut running = Running::start(state.path(), settings, &wishes, &zone, vec![mail.service()]);
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
    if !can_run() {
        return;
    }
    let (_, elsewhere) = (Wishes::default(), tempfile::tempdir().unwrap());
    let stranger = elsewhere.path().join("stranger.pem");
    std::fs::write(&stranger, https().0).unwrap();
    for (domain, case, words) in [
        (DOMAIN, "away", "cannot be reached"),
        (DOMAIN, "stranger", "does not prove who it is"),
        (BLOCKED, "blocked", "rejectedIdentifier"),
        (DOMAIN, "profile", "has no profile `short`"),
    ] {
        let (wishes, state) = (Wishes::default(), tempfile::tempdir().unwrap());
        let zone = Zone::start(domain, &wishes).unwrap();
        let ca = Ca::start(zone.dns()).unwrap();
        let mail = MailServer::start().await;
        let (mut directory, mut trust, mut more) = (ca.directory.clone(), ca.trust.clone(), "");
        match case {
            "away" => directory = "https://127.0.0.1:1/dir".into(),
            "stranger" => trust = stranger.clone(),
            "profile" => more = "profile = \"short\"",
            _ => {}
        }
        let settings = settings(&directory, &trust, &mail, more);
        let mut running =
            Running::start(state.path(), settings, &wishes, &zone, vec![mail.service()]);
        let report = running.until(case, |it| it.error.is_some()).await;
        let error = report.error.unwrap();
        assert!(error.contains(words), "{case}: {error}");
        assert!(report.retry_at.is_some());
        running.stop().await;
    }
}

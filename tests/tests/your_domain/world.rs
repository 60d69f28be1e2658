//! The world of the scenarios: a signed internet, a relay that is a name server, and a fresh box whose
//! agent makes its zones, all under one clock.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::certificate::Certificate;
use sealpost_tests::home::PROXY_PORT;
use sealpost_tests::mailbox;
use sealpost_tests::message::Message;
use sealpost_tests::network::{
    NAME_SERVER, Network, RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4, SENDER_V4,
};
use sealpost_tests::packages::unpacked;
use sealpost_tests::postfix::{self, PostfixSender};
use sealpost_tests::process::Process;
use sealpost_tests::programs;
use sealpost_tests::scene::{MX_NAME, allowed, with_log_tails};
use sealpost_tests::sealpost::{
    self, AGENT_FILE, RELAY_FILE, RelayFile, Service, agent_does, agent_tries, relay_does,
};
use sealpost_tests::sender::{SendingServer, Tls, expect_log};
use sealpost_tests::signed_internet::SignedInternet;
use sealpost_tests::wait::wait_until;
use serde_json::Value;

/// For what takes a moment. All the waits of the programs that count here are shorter.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// For what a program sees when it looks at the date, which it does once a minute.
pub(crate) const GLANCE: Duration = Duration::from_secs(100);

/// See the module's text. Fields are dropped in order: processes before their machines.
pub(crate) struct World<'a> {
    agent: Option<Process>,
    relay: Option<Process>,
    pub(crate) internet: SignedInternet<'a>,
    pub(crate) network: &'a Network,
    /// The file of the agent when it had joined.
    joined: String,
}

/// Sets the world up until the box has joined, runs with `lines` in its file, and has zones that
/// nobody knows; then lets `play` happen. `trees` are packages for home, beside its mail server.
pub(crate) fn world(
    trees: &[&str],
    lines: &str,
    play: impl FnOnce(&mut World<'_>) -> Result<()>,
) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let postfix = unpacked("postfix")?;
    let mut home = vec![postfix.clone()];
    for tree in trees {
        home.push(unpacked(tree)?);
    }
    let network = Network::start(&programs::directory()?, &unpacked("dns")?, &[postfix], &home)?;
    with_log_tails(&network, || {
        let mut internet = SignedInternet::start(&network)?;
        internet.host(RelayFile::FIRST.hostname, RELAY_SHARED_V4)?;
        let relay = &network.relay;
        sealpost::configure_relay(relay, RelayFile::FIRST)?;
        let dns = format!(
            "[dns]\nlisten = [\"{RELAY_SHARED_V4}:53\"]\nthreads = 1\n\
             transfer_to = [{{ from = \"{SENDER_V4}/32\" }}]\n"
        );
        relay.write(RELAY_FILE, &(relay.read(RELAY_FILE) + &dns))?;
        Certificate::for_name(MX_NAME)?.install(&network.home)?;
        postfix::start_at_home(&network.home)?;
        internet.introduce(&network.home)?;
        let mut world =
            World { agent: None, relay: None, internet, network: &network, joined: String::new() };
        world.start_relay()?;
        world.join(lines)?;
        play(&mut world)
    })
}

impl World<'_> {
    fn join(&mut self, lines: &str) -> Result<()> {
        let (relay, home) = (&self.network.relay, &self.network.home);
        sealpost::configure_agent(home, Service { proxy: "v2", port: PROXY_PORT })?;
        let invite = sealpost::invite(relay, "home")?;
        agent_does(home, &format!("join '{invite}' --yes --name r1"))?;
        for address in [RELAY_OWN_V6, RELAY_OWN_V4] {
            relay_does(relay, &format!("address add home {address}"))?;
        }
        self.joined = home.read(AGENT_FILE);
        home.write(AGENT_FILE, &format!("{}{lines}", self.joined))?;
        agent_does(home, "check-config")?;
        self.start_agent()
    }

    /// Starts the relay, and waits until it is ready.
    pub(crate) fn start_relay(&mut self) -> Result<()> {
        let relay = &self.network.relay;
        self.relay = Some(sealpost::start_relay_under(&mut self.internet.clock, relay)?);
        Ok(())
    }

    /// Ends the relay as an operator does, or a power cut with `KILL`.
    pub(crate) fn stop_relay(&mut self, signal: &str) -> Result<()> {
        let mut relay = self.relay.take().context("no relay runs")?;
        relay.signal(&self.network.relay, signal)?;
        relay.wait(DEADLINE).map(drop)
    }

    /// Switches the box on, and waits until it is connected.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let home = &self.network.home;
        self.agent = Some(sealpost::start_agent_under(&mut self.internet.clock, home)?);
        wait_until("a tunnel", DEADLINE, || {
            let status = self.status()?;
            Ok(status["relays"][0]["up"] == true)
        })
    }

    /// Has the agent run with these lines at the end of its file from now on.
    pub(crate) fn reconfigure(&mut self, lines: &str) -> Result<()> {
        let home = &self.network.home;
        home.write(AGENT_FILE, &format!("{}{lines}", self.joined))?;
        agent_does(home, "check-config")?;
        self.stop_agent()?;
        self.start_agent()
    }

    /// Switches the box off.
    pub(crate) fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.signal(&self.network.home, "TERM")?;
        agent.wait(DEADLINE).map(drop)
    }

    /// What `sealpost-agent status` says.
    pub(crate) fn status(&self) -> Result<Value> {
        let status = agent_tries(&self.network.home, "status --json")?.printed;
        Ok(serde_json::from_str(&status).unwrap_or_default())
    }

    /// What it says of one zone.
    fn zone(&self, domain: &str) -> Result<Option<Value>> {
        let status = self.status()?;
        let zones = status["zones"].as_array().cloned().unwrap_or_default();
        Ok(zones.into_iter().find(|zone| zone["name"] == domain))
    }

    /// What the owner does to have a domain: asks the box, tells the registrar, and claims it.
    pub(crate) fn own(&mut self, domain: &str) -> Result<()> {
        let home = &self.network.home;
        let add = format!("domain add {domain} --json");
        let printed = agent_tries(home, &add)?.expect(1)?;
        let said: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
        let of = |list: &Value, one: &dyn Fn(&Value) -> Option<String>| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(one).collect()
        };
        let registrar = &said["registrar"];
        let ds = of(&registrar["ds"], &|ds| {
            let number = |name: &str| ds[name].as_u64();
            let (tag, algorithm) = (number("key_tag")?, number("algorithm")?);
            Some(format!("{tag} {algorithm} {} {}", number("digest_type")?, ds["digest"].as_str()?))
        });
        let servers = of(&registrar["name_servers"], &|name| name.as_str().map(str::to_owned));
        ensure!(!ds.is_empty() && servers == [RelayFile::FIRST.hostname], "{printed}");
        let ds: Vec<_> = ds.iter().map(String::as_str).collect();
        self.internet.delegate(domain, &[RelayFile::FIRST.hostname], &ds)?;

        // The zone may be new in the file.
        self.agent.as_mut().context("no agent runs")?.signal(home, "HUP")?;
        let mut printed = String::new();
        let claimed = wait_until("the claim", DEADLINE, || {
            let ended = agent_tries(home, &add)?;
            printed = ended.printed;
            Ok(ended.code == Some(0))
        });
        claimed.with_context(|| printed.clone())?;
        let said: Value = serde_json::from_str(&printed)?;
        ensure!(said["relays"][0]["claim"]["method"] == "ds", "not proved by DS: {printed}");
        self.expect_served(domain)?;
        let mut said = String::new();
        let well = wait_until("all to be as it should be", DEADLINE, || {
            let ended = agent_tries(home, &format!("dns check {domain} --resolver {NAME_SERVER}"))?;
            said = format!("{}{}", ended.printed, ended.complained);
            Ok(ended.code == Some(0))
        });
        well.context(said)
    }

    /// Waits until the relay serves what the box has.
    pub(crate) fn expect_served(&self, domain: &str) -> Result<()> {
        let mut last = None;
        let waited = wait_until(&format!("{domain} to be served"), DEADLINE, || {
            last = self.zone(domain)?;
            let relay = |zone: &Value| zone["relays"][0].clone();
            Ok(last.as_ref().is_some_and(|zone| relay(zone)["up_to_date"] == true))
        });
        waited.with_context(|| format!("{last:?}"))
    }

    /// What the relay's name server answers, with signatures.
    pub(crate) fn asked(&self, name: &str, kind: &str) -> Result<String> {
        let command = format!("dig +dnssec +norecurse +tries=1 @{RELAY_SHARED_V4} {name} {kind}");
        Ok(self.network.sender.attempt(&command)?.printed)
    }

    /// What everybody's resolver answers, which lives under the clock.
    pub(crate) fn resolved(&self, name: &str, kind: &str) -> Result<String> {
        let command = format!("dig +tries=1 {name} {kind}");
        Ok(self.network.sender.attempt(&command)?.printed)
    }

    /// Whether it says that it has validated the answer.
    pub(crate) fn is_authentic(&self, name: &str, kind: &str) -> Result<bool> {
        Ok(self.resolved(name, kind)?.contains("flags: qr rd ra ad;"))
    }

    /// A Postfix on the sender's machine that demands what the zone says of keys. Its processes have a
    /// memory of their own for that, so they live under the clock too.
    pub(crate) fn sender(&mut self) -> Result<PostfixSender> {
        let clock = self.internet.clock.command(&self.network.sender)?;
        let environment = clock.iter().filter(|word| word.contains('='));
        let environment: Vec<_> = environment.map(String::as_str).collect();
        let more = format!(
            "import_environment = MAIL_CONFIG MAIL_LOGTAG POSTLOG_SERVICE POSTLOG_HOSTNAME LANG=C {}",
            environment.join(" ")
        );
        PostfixSender::start_with(&self.network.sender, Tls::Dane, &more)
    }

    /// A message to the box, which arrives and whose connection was verified.
    pub(crate) fn deliver(&self, sender: &PostfixSender, subject: &str) -> Result<()> {
        let message = Message::small(subject);
        sender.send(&self.network.sender, &message)?;
        let mut looks = 0;
        mailbox::expect_delivered_while(&self.network.home, &message, GLANCE, || {
            looks += 1;
            // The queue is nudged every few seconds.
            if looks % 150 == 0 { sender.flush(&self.network.sender) } else { Ok(()) }
        })?;
        expect_log(sender, &self.network.sender, &[sender.dane_verified()], DEADLINE).map(drop)
    }
}

//! A box, its zone on real name servers, and a real CA: pebble, which asks these name servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use sealpost_agent::certificate::servers::{NameServers, Server};
use sealpost_agent::certificate::{Certificate, Keeper, Report, Settings};
use sealpost_agent::config::{Proxy, Service};
use sealpost_agent::publish::{Published, Wishes};
use sealpost_agent::zone::plan::{Exchanger, Host, KeyDigest, Plan};
use sealpost_agent::zone::{content, master_file};
use sealpost_tests::name_server::{NameServer, Program, Software, Terms, ZoneFiles, free_port};
use sealpost_tunnel::DomainName;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The longest that anything may take here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How long resolvers may keep the records of this zone, and what is added to it, in seconds.
pub(crate) const TTL: u32 = 2;
pub(crate) const MARGIN: u64 = 1;

/// A domain that pebble is told to refuse.
pub(crate) const BLOCKED: &str = "blocked.example";

/// Pebble, with a certificate of its own for HTTPS.
pub(crate) struct Ca {
    child: Child,
    directory: String,
    trust: PathBuf,
    log: PathBuf,
    _home: tempfile::TempDir,
}

impl Ca {
    /// One that asks the name server at `dns`. `None` where pebble cannot be had.
    fn start(dns: SocketAddr) -> Option<Self> {
        // Another process may take a port between its choice and its use.
        (0..5).find_map(|_| Self::attempt(dns))
    }

    fn attempt(dns: SocketAddr) -> Option<Self> {
        let program = Program::find("pebble", Some("pebble")).ok()?;
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let (authority, certificate, key) = https();
        std::fs::write(path("ca.pem"), authority).unwrap();
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let (port, management) = (free_port().unwrap(), free_port().unwrap());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": free_port().unwrap(),
            "tlsPort": free_port().unwrap(),
            "domainBlocklist": [BLOCKED],
        }});
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let mut child = program
            .command()
            .args(["-config", path("config.json").to_str().unwrap()])
            .args(["-dnsserver", &dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "20")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        for port in [port, management] {
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                if child.try_wait().unwrap().is_some() {
                    return None;
                }
                assert!(Instant::now() < until, "pebble does not start");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        Some(Self {
            child,
            directory: format!("https://127.0.0.1:{port}/dir"),
            trust: path("ca.pem"),
            log: path("log"),
            _home: home,
        })
    }

    /// How many lines of its log have `words`.
    pub(crate) fn said(&self, words: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(words)).count()
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CA's certificate, and one that it issued to 127.0.0.1 with its key.
pub(crate) fn https() -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    (authority.pem(), own.pem(), key.serialize_pem())
}

/// What the zone said when.
#[derive(Default)]
pub(crate) struct History {
    /// When each key came into the zone of all name servers, and when it left.
    pub(crate) keys: BTreeMap<KeyDigest, (Instant, Option<Instant>)>,
    /// The names of the authorities, and how many challenges there ever were.
    pub(crate) challenges: usize,
}

/// The zone `domain` on two name servers, made of what the keeper wishes.
pub(crate) struct Zone {
    pub(crate) domain: DomainName,
    servers: Vec<(NameServer, ZoneFiles)>,
    /// Whether the second name server follows.
    pub(crate) second_follows: AtomicBool,
    serial: AtomicU32,
    text: Mutex<String>,
    pub(crate) history: Mutex<History>,
}

impl Zone {
    /// `None` where there are no name servers to test with.
    fn start(domain: &str, wishes: &Wishes) -> Option<Arc<Self>> {
        let domain: DomainName = domain.parse().unwrap();
        let first = text(&domain, 1, &[], &[]);
        let mut servers = Vec::new();
        for software in [Software::Knot, Software::Nsd] {
            software.program().ok()?;
            let mut files = ZoneFiles::new().unwrap();
            files.add(&format!("{domain}."), &first).unwrap();
            let server = NameServer::start(software, &files, Terms::JUDGE).unwrap();
            servers.push((server, files));
        }
        let zone = Arc::new(Self {
            domain: domain.clone(),
            servers,
            second_follows: AtomicBool::new(true),
            serial: AtomicU32::new(1),
            text: Mutex::new(first),
            history: Mutex::default(),
        });
        let mut wanted = wishes.wanted(&domain);
        let (publisher, wishes) = (zone.clone(), wishes.clone());
        tokio::spawn(async move {
            loop {
                let (wish, now) = wanted.borrow_and_update().clone();
                let serial = publisher.serial.fetch_add(1, Ordering::Relaxed) + 1;
                publisher.publish(serial, &now.next_keys, &now.challenges);
                let serial = Some(serial);
                let names = ["mx", "mx2"].map(|it| format!("{it}.{}", publisher.domain));
                let exchangers = names.map(|name| name.parse().unwrap()).to_vec();
                let published = Published { wish, serial, exchangers, ..Published::default() };
                wishes.report(&publisher.domain, published);
                if wanted.changed().await.is_err() {
                    return;
                }
            }
        });
        let again = Arc::downgrade(&zone);
        tokio::spawn(async move {
            // A signal that comes while a server still loads the version before may get lost.
            while let Some(zone) = again.upgrade() {
                for (server, _) in &zone.servers {
                    let _ = server.signal("HUP");
                }
                drop(zone);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Some(zone)
    }

    fn publish(
        &self,
        serial: u32,
        keys: &[KeyDigest],
        challenges: &[sealpost_agent::zone::plan::Challenge],
    ) {
        *self.text.lock().unwrap() = text(&self.domain, serial, keys, challenges);
        self.load();
        let mut history = self.history.lock().unwrap();
        history.challenges += challenges.len();
        for key in keys {
            history.keys.entry(*key).or_insert((Instant::now(), None));
        }
        for (key, (_, gone)) in &mut history.keys {
            if !keys.contains(key) && gone.is_none() {
                *gone = Some(Instant::now());
            }
        }
    }

    /// Has the name servers load the newest zone.
    pub(crate) fn load(&self) {
        let text = self.text.lock().unwrap();
        for (place, (server, files)) in self.servers.iter().enumerate() {
            if place == 0 || self.second_follows.load(Ordering::Relaxed) {
                let file = &files.iter().next().unwrap().path;
                // Whole at once: the server may be reading it just now.
                let part = file.with_extension("part");
                std::fs::write(&part, &*text).unwrap();
                std::fs::rename(&part, file).unwrap();
                server.signal("HUP").unwrap();
            }
        }
    }

    /// Ends the second name server. It is not taken out of the delegation.
    pub(crate) fn kill_second(&self) {
        self.servers[1].0.signal("TERM").unwrap();
    }

    /// Where the first name server answers.
    fn dns(&self) -> SocketAddr {
        self.servers[0].0.address()
    }

    fn name_servers(&self) -> NameServers {
        let server = |(place, (server, _)): (usize, &(NameServer, ZoneFiles))| Server {
            name: format!("ns{}.{}", place + 1, self.domain),
            addresses: vec![server.address()],
        };
        NameServers::Given(self.servers.iter().enumerate().map(server).collect())
    }
}

/// The zone as the agent would make it, with short lives.
fn text(
    domain: &DomainName,
    serial: u32,
    keys: &[KeyDigest],
    challenges: &[sealpost_agent::zone::plan::Challenge],
) -> String {
    let host = |name: &str| Host {
        name: format!("{name}.{domain}.").parse().unwrap(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
    };
    let mut plan = Plan::new(format!("{domain}.").parse().unwrap());
    plan.name_servers = vec![host("ns1"), host("ns2")];
    plan.exchangers = ["mx", "mx2"].map(|it| Exchanger { preference: 10, host: host(it) }).into();
    plan.certificate_keys = keys.to_vec();
    plan.challenges = challenges.to_vec();
    let mut records = content::records(&plan, serial).unwrap();
    for record in &mut records {
        record.set_ttl(domain::base::Ttl::from_secs(TTL));
    }
    master_file::text(&records)
}

/// A mail server that shows the certificate in a file, read anew for each connection.
pub(crate) struct MailServer {
    pub(crate) address: SocketAddr,
    pub(crate) file: PathBuf,
    home: tempfile::TempDir,
}

impl MailServer {
    /// One with a certificate that the owner made herself.
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("mail.pem");
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["mx.home.example".to_owned()]).unwrap();
        let own = own.self_signed(&key).unwrap();
        std::fs::write(&file, format!("{}{}", key.serialize_pem(), own.pem())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = file.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let file = served.clone();
                tokio::spawn(async move {
                    let _ = timeout(PATIENCE, serve(tcp, &file)).await;
                });
            }
        });
        Self { address, file, home }
    }

    /// Where the agent puts its file with key and chain.
    pub(crate) fn given(&self) -> PathBuf {
        self.home.path().join("given.pem")
    }

    fn service(&self) -> Service {
        Service {
            name: "smtp".parse().unwrap(),
            address: self.address.to_string().parse().unwrap(),
            proxy: Proxy::None,
            self_test_recipient: "a@example.com".into(),
        }
    }

    /// The key that senders see.
    pub(crate) fn key(&self) -> KeyDigest {
        let until = Instant::now() + PATIENCE;
        let certificate = loop {
            // The command that puts the file there does not do it in one instant.
            match CertificateDer::from_pem_slice(&std::fs::read(&self.file).unwrap()) {
                Ok(certificate) => break certificate,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        let parsed = ParsedCertificate::try_from(&certificate).unwrap();
        let digest = digest(&SHA256, &parsed.subject_public_key_info());
        digest.as_ref().try_into().unwrap()
    }
}

async fn serve(tcp: TcpStream, file: &Path) -> std::io::Result<()> {
    let mut tcp = BufReader::new(tcp);
    tcp.write_all(b"220 mx.home.example ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if tcp.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim().to_ascii_uppercase().as_str() {
            "STARTTLS" => break,
            "QUIT" => return tcp.write_all(b"221 bye\r\n").await,
            _ => tcp.write_all(b"250-mx.home.example\r\n250 STARTTLS\r\n").await?,
        }
    }
    tcp.write_all(b"220 go ahead\r\n").await?;
    let text = std::fs::read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(std::io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(std::io::Error::other)?, key)
        .map_err(std::io::Error::other)?;
    let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp.into_inner()).await?;
    tls.write_all(b"").await?;
    let mut buffer = [0; 64];
    let _ = tokio::io::AsyncReadExt::read(&mut tls, &mut buffer).await;
    tls.shutdown().await
}

/// The box that a test is about: its zone on name servers, its mail server, its CA, and the directory of
/// its agent.
pub(crate) struct Lab {
    pub(crate) zone: Arc<Zone>,
    pub(crate) ca: Ca,
    pub(crate) mail: MailServer,
    wishes: Wishes,
    state: tempfile::TempDir,
}

impl Lab {
    /// For `domain`. `None` where this machine lacks a program, which is said loudly.
    pub(crate) async fn start(domain: &str) -> Option<Self> {
        if !can_run() {
            return None;
        }
        let (wishes, state) = (Wishes::default(), tempfile::tempdir().unwrap());
        let zone = Zone::start(domain, &wishes).unwrap();
        let ca = Ca::start(zone.dns()).unwrap();
        let mail = MailServer::start().await;
        Some(Self { zone, ca, mail, wishes, state })
    }

    /// The agent's directory.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// `[acme]` of this box, with `more`.
    pub(crate) fn settings(&self, more: &str) -> Settings {
        let text = format!(
            "directory = {directory:?}\nca = {trust:?}\nterms_agreed = true\ncombined = {given:?}\n\
             reload = [\"/bin/cp\", {given:?}, {file:?}]\nmargin = \"{MARGIN}s\"\n{more}",
            directory = self.ca.directory,
            trust = self.ca.trust,
            given = self.mail.given(),
            file = self.mail.file,
        );
        toml::from_str(&text).unwrap()
    }

    /// Starts a keeper.
    pub(crate) fn keep(&self, settings: Settings) -> Running {
        let keeper = Keeper {
            settings,
            state: self.state().into(),
            wishes: self.wishes.clone(),
            zones: vec![self.zone.domain.clone()],
            services: vec![self.mail.service()],
            name_servers: self.zone.name_servers(),
        };
        let stop = CancellationToken::new();
        let (certificate, work) = keeper.start(stop.clone()).unwrap();
        Running { certificate, stop, task: tokio::spawn(work) }
    }
}

/// A keeper at work.
pub(crate) struct Running {
    pub(crate) certificate: Certificate,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Waits until the report is as `wanted` says.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl FnMut(&Report) -> bool,
    ) -> Report {
        match timeout(PATIENCE, self.certificate.until(wanted)).await {
            Ok(report) => report.unwrap(),
            Err(_) => panic!("waited in vain until {what}: {:?}", self.certificate.report()),
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Whether this machine can run these tests; says loudly when not.
fn can_run() -> bool {
    let pebble = Program::find("pebble", Some("pebble"));
    let name_servers = [Software::Knot, Software::Nsd].map(Software::program);
    let missing = name_servers.into_iter().chain([pebble]).find_map(Result::err);
    if let Some(missing) = &missing {
        sealpost_tests::name_server::skipped(&format!("{missing:#}"));
    }
    missing.is_none()
}

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use sealpost_dns::transport::Clock;
use sealpost_dns::udp::{Handed, Serving, Udp};
use tokio::sync::mpsc;

use crate::echo::{Echo, dig, query};

struct Server {
    serving: Serving,
    addresses: Vec<SocketAddr>,
    handed: mpsc::Receiver<Handed>,
}

fn start(addresses: &[&str], threads: usize) -> Server {
    let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let udp = Udp::bind(&addresses, NonZeroUsize::new(threads).unwrap()).unwrap();
    let addresses = udp.local_addrs().to_vec();
    assert_eq!(udp.threads(), addresses.len() * threads);
    let (transfers, handed) = mpsc::channel(sealpost_dns::udp::HANDED);
    let serving = udp.run(&Arc::new(Echo), &transfers, Clock::start()).unwrap();
    Server { serving, addresses, handed }
}

fn client(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // Only what comes from there is heard.
    socket.connect(server).unwrap();
    socket
}

fn ask(socket: &UdpSocket, id: u16) -> Vec<u8> {
    socket.send(&query(id, "a", 16)).unwrap();
    let mut answer = [0; 2000];
    let length = socket.recv(&mut answer).unwrap();
    answer[..length].to_vec()
}

#[test]
fn dig_is_answered_by_both_families() {
    let server = start(&["127.0.0.1:0", "[::1]:0"], 2);
    assert_eq!(dig(server.addresses[0], &[]), "\"127.0.0.1 Udp\"");
    assert_eq!(dig(server.addresses[1], &["+cookie"]), "\"::1 Udp\"");
    server.serving.shutdown();
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut server = start(&["0.0.0.0:0", "[::]:0"], 1);
    for (at, ip) in [(0, "127.0.0.1"), (0, "127.0.0.9"), (0, "127.1.2.3"), (1, "::1")] {
        let address = SocketAddr::new(ip.parse().unwrap(), server.addresses[at].port());
        let socket = client(address);
        for id in 0..100 {
            assert_eq!(ask(&socket, id)[..2], id.to_be_bytes());
        }
        let mut notify = query(9, "a", 6);
        notify[2] = 4 << 3;
        socket.send(&notify).unwrap();
        let handed = server.handed.blocking_recv().unwrap();
        assert_eq!((handed.query, handed.reply.client()), (notify, socket.local_addr().unwrap()));
        handed.reply.send(b"noted").unwrap();
        let mut noted = [0; 10];
        assert_eq!(socket.recv(&mut noted).unwrap(), 5);
    }
    let counts = server.serving.shutdown();
    assert_eq!((counts.replies, counts.handed, counts.unsent), (400, 4, 0));
}

#[test]
fn what_has_arrived_is_answered_before_the_end() {
    let server = start(&["127.0.0.1:0"], 1);
    let socket = client(server.addresses[0]);
    for id in 0..100 {
        socket.send(&query(id, "a", 16)).unwrap();
    }
    server.serving.shutdown();
    let mut answer = [0; 2000];
    for id in 0..100u16 {
        socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..2], id.to_be_bytes());
    }
}

#[test]
fn an_address_that_somebody_has_is_not_shared() {
    let server = start(&["127.0.0.1:0"], 2);
    let again = Udp::bind(&server.addresses, NonZeroUsize::MIN);
    assert_eq!(again.err().unwrap().kind(), std::io::ErrorKind::AddrInUse);
    server.serving.shutdown();
}

#[test]
fn many_clients_have_their_own_answers() {
    let server = start(&["127.0.0.1:0"], 2);
    let sockets: Vec<_> = (0..40).map(|_| client(server.addresses[0])).collect();
    for round in 0..50u16 {
        for (number, socket) in (0..).zip(&sockets) {
            socket.send(&query(round * 40 + number, "a", 16)).unwrap();
        }
        for (number, socket) in (0..).zip(&sockets) {
            let mut answer = [0; 2000];
            socket.recv(&mut answer).unwrap();
            assert_eq!(answer[..2], (round * 40 + number).to_be_bytes());
        }
    }
    let counts = server.serving.shutdown();
    assert_eq!((counts.queries, counts.replies), (2000, 2000));
    assert!(counts.batches <= counts.queries);
}

#[test]
fn ten_thousand_malformed_datagrams_leave_it_alive() {
    let server = start(&["127.0.0.1:0", "0.0.0.0:0"], 1);
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    for address in &server.addresses {
        let socket = client(SocketAddr::new([127, 0, 0, 1].into(), address.port()));
        for round in 0..5000 {
            let length = match round % 4 {
                0 => random.random_range(0..20),
                1 => random.random_range(0..9000),
                _ => 40,
            };
            let mut octets = vec![0u8; length];
            random.fill(&mut octets[..]);
            socket.send(&octets).unwrap();
            let mut bent = query(1, "a", 16);
            let at = random.random_range(0..bent.len());
            bent[at] ^= 1 << random.random_range(0..8);
            bent.truncate(random.random_range(0..=bent.len()));
            socket.send(&bent).unwrap();
        }
        let fresh = client(SocketAddr::new([127, 0, 0, 1].into(), address.port()));
        // The queue may be full of the above; then a client asks again.
        fresh.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let answered = (0..100).any(|_| {
            fresh.send(&query(77, "a", 16)).unwrap();
            fresh.recv(&mut [0; 2000]).is_ok()
        });
        assert!(answered);
    }
    let counts = server.serving.shutdown();
    assert!(counts.dropped > 0 && counts.unusable > 0, "{counts:?}");
    assert_eq!((counts.panics, counts.failed_receives), (0, 0));
}

#[test]
fn a_fault_of_the_engine_costs_a_batch_and_not_the_socket() {
    let server = start(&["127.0.0.1:0"], 1);
    let socket = client(server.addresses[0]);
    for id in 0..5 {
        socket.send(&query(id, "panic", 16)).unwrap();
        // The next may be of the same batch, and then is lost with it.
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let answered = (0..100).any(|_| {
            socket.send(&query(77, "a", 16)).unwrap();
            socket.recv(&mut [0; 2000]).is_ok()
        });
        assert!(answered);
    }
    assert_eq!(server.serving.counts().panics, 5);
    server.serving.shutdown();
}

#[test]
fn silence_costs_nothing_to_send_and_what_has_no_answer_gets_none() {
    let server = start(&["127.0.0.1:0"], 1);
    let socket = client(server.addresses[0]);
    for id in 0..10 {
        socket.send(&query(id, "drop", 16)).unwrap();
    }
    // Too long to come in one piece, so not for us.
    socket.send(&[0; 3000]).unwrap();
    assert_eq!(ask(&socket, 11)[..2], [0, 11]);
    let counts = server.serving.shutdown();
    assert_eq!((counts.dropped, counts.replies, counts.unusable), (10, 1, 1));
}

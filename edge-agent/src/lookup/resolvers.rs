//! Which resolvers are asked: the machine's own, to find the way, and large public ones, to hear
//! what the world hears.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The port of name servers and resolvers.
pub const PORT: u16 = 53;
/// Quad9, Cloudflare and Google, which all validate.
pub const PUBLIC: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)),
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
];
/// Where the machine names its own.
pub const FILE: &str = "/etc/resolv.conf";
/// The most that are taken from the file, as by the C library.
const MOST: usize = 3;

/// The resolvers that the file at `path` names; none when it cannot be read.
pub fn of_machine(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    named(&text)
}

/// The resolvers that show the way to name servers: `named`, or the public ones where none is named,
/// and then those of the file at `path`. Those may know other names than the world, so they are last.
pub fn for_way(named: &[IpAddr], path: &Path) -> Vec<SocketAddr> {
    let mut all = world(named);
    all.extend(of_machine(path));
    all
}

/// The resolvers that say what the world hears: `named`, or the public ones where none is named.
pub fn world(named: &[IpAddr]) -> Vec<SocketAddr> {
    let all = if named.is_empty() { &PUBLIC[..] } else { named };
    all.iter().map(|address| SocketAddr::new(*address, PORT)).collect()
}

/// The resolvers that the text of a `resolv.conf` names.
fn named(text: &str) -> Vec<SocketAddr> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    // A scope, as in `fe80::1%eth0`, is not for us.
    let addresses = values.filter_map(|value| value.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, PORT)).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_machine_is_understood() {
        let text = "# x\nsearch home\nnameserver 127.0.0.53\n nameserver\t2001:db8::1 \n\
            nameserver fe80::1%eth0\noptions edns0\nnameserver 9.9.9.9\nnameserver 1.1.1.1\n";
        let shown: Vec<_> = named(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.53:53", "[2001:db8::1]:53", "9.9.9.9:53"]);
        assert!(of_machine(Path::new("/nowhere")).is_empty());
    }
}

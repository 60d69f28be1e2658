//! In which order and how fast a relay's addresses are tried (RFC 8305). Pure.

use std::net::SocketAddr;
use std::time::Duration;

/// Between the beginnings of two attempts (RFC 8305 section 5).
pub(super) const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one relay that are tried in one round.
const MOST: usize = 16;

/// Addresses in the order in which to try them: without repetition, the families in turn,
/// IPv6 first.
pub(super) fn order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut families = [Vec::new(), Vec::new()];
    for &address in addresses {
        let family = &mut families[usize::from(address.is_ipv4())];
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let [v6, v4] = families;
    let longest = v6.len().max(v4.len());
    (0..longest).flat_map(|at| [v6.get(at), v4.get(at)]).flatten().copied().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a, b, c] = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(address);
        let v6 = address("[2001:db8::1]:1");
        assert_eq!(order(&[a, b, a, v6, c]), [v6, a, b, c]);
        assert_eq!(order(&[]), []);
        let many: Vec<_> = (1..100).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        assert_eq!(order(&many).len(), MOST);
    }
}

//! Which networks belong to nobody else: an address list of these opens no relay.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks that are not routed on the Internet: loopback, RFC 1918, RFC 6598, RFC 3927, RFC 4193,
/// RFC 4291 §2.5.6.
const NOT_PUBLIC: [IpNet; 9] = [
    v4([127, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([169, 254, 0, 0], 16),
    v6(Ipv6Addr::LOCALHOST, 128),
    v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(address: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

/// This machine, by both families.
#[must_use]
pub fn loopback() -> Vec<IpNet> {
    vec![v4([127, 0, 0, 0], 8), v6(Ipv6Addr::LOCALHOST, 128)]
}

/// Whether no address of it is routed on the Internet.
#[must_use]
pub fn is_private(net: &IpNet) -> bool {
    NOT_PUBLIC.iter().any(|private| private.contains(net))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_networks_wholly_inside_private_space_are_private() {
        for (net, want) in [
            ("10.0.0.0/8", true),
            ("10.1.2.3/32", true),
            ("172.16.0.0/12", true),
            ("172.0.0.0/8", false),
            ("192.168.1.0/24", true),
            ("100.64.0.0/10", true),
            ("0.0.0.0/0", false),
            ("8.8.8.8/32", false),
            ("127.0.0.0/8", true),
            ("::/0", false),
            ("fd00::/8", true),
            ("fe80::/10", true),
            ("2001:db8::/32", false),
        ] {
            assert_eq!(is_private(&net.parse().unwrap()), want, "{net}");
        }
    }
}

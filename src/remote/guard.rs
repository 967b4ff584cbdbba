//! Which addresses may be connected to, where a stranger may have said which.
//!
//! Whoever can make the service fetch a URL, by a row, a redirect or a name's addresses, could have it ask what only this
//! machine and its neighbours can: a database, an admin page, the cloud's metadata (CWE-918). So addresses that are not
//! public are refused, by the registries of IANA: the IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890) and the
//! IPv6 address space, of which only `2000::/3` is in use for hosts (RFC 4291, 2.4). An operator names the networks that
//! are meant all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::model::Network;

/// What is refused, and why. The first that fits names the reason.
const FORBIDDEN: [(Network, &str); 47] = [
    (Network::v4(0, 0, 0, 0, 8), "this machine (RFC 1122, 3.2.1.3)"),
    (Network::v4(10, 0, 0, 0, 8), "private (RFC 1918)"),
    (Network::v4(100, 64, 0, 0, 10), "a provider's own (RFC 6598)"),
    (Network::v4(127, 0, 0, 0, 8), "this machine (RFC 1122, 3.2.1.3)"),
    // The metadata of most clouds is at 169.254.169.254.
    (Network::v4(169, 254, 0, 0, 16), "link-local (RFC 3927)"),
    (Network::v4(172, 16, 0, 0, 12), "private (RFC 1918)"),
    (Network::v4(192, 0, 0, 0, 24), "for protocols (RFC 6890)"),
    (Network::v4(192, 0, 2, 0, 24), "for documentation (RFC 5737)"),
    (Network::v4(192, 31, 196, 0, 24), "AS112 (RFC 7535)"),
    (Network::v4(192, 52, 193, 0, 24), "multicast tunnels (RFC 7450)"),
    (Network::v4(192, 88, 99, 0, 24), "6to4 relays (RFC 7526)"),
    (Network::v4(192, 168, 0, 0, 16), "private (RFC 1918)"),
    (Network::v4(192, 175, 48, 0, 24), "AS112 (RFC 7534)"),
    (Network::v4(198, 18, 0, 0, 15), "for benchmarks (RFC 2544)"),
    (Network::v4(198, 51, 100, 0, 24), "for documentation (RFC 5737)"),
    (Network::v4(203, 0, 113, 0, 24), "for documentation (RFC 5737)"),
    // Public by its number, but what answers there is the host of an Azure machine, with its metadata.
    (Network::v4(168, 63, 129, 16, 32), "the host of an Azure machine"),
    (Network::v4(224, 0, 0, 0, 4), "multicast (RFC 5771)"),
    (Network::v4(255, 255, 255, 255, 32), "broadcast (RFC 919)"),
    (Network::v4(240, 0, 0, 0, 4), "reserved (RFC 1112, 4)"),
    (LOOPBACK, "this machine (RFC 4291, 2.5.3)"),
    (UNSPECIFIED, "no address (RFC 4291, 2.5.2)"),
    // Forms of IPv6 that carry an address of IPv4, to which the kernel or a gateway would connect.
    (MAPPED, "an IPv4 address in IPv6 (RFC 4291, 2.5.5.2)"),
    (TRANSLATED, "an IPv4 address in IPv6 (RFC 2765)"),
    (COMPATIBLE, "an IPv4 address in IPv6 (RFC 4291, 2.5.5.1)"),
    (NAT64, "an IPv4 address behind NAT64 (RFC 6052)"),
    (Network::v6([0x64, 0xff9b, 1, 0], 48), "an IPv4 address behind NAT64 (RFC 8215)"),
    (SIX_TO_FOUR, "an IPv4 address in 6to4 (RFC 3056)"),
    (Network::v6([0x2001, 0, 0, 0], 32), "an IPv4 address in Teredo (RFC 4380)"),
    (Network::v6([0x100, 0, 0, 0], 64), "discarded (RFC 6666)"),
    (Network::v6([0x100, 0, 0, 1], 64), "a dummy (RFC 9780)"),
    (Network::v6([0x2001, 2, 0, 0], 48), "for benchmarks (RFC 5180)"),
    (Network::v6([0x2001, 3, 0, 0], 32), "multicast tunnels (RFC 7450)"),
    (Network::v6([0x2001, 4, 0x112, 0], 48), "AS112 (RFC 7535)"),
    (Network::v6([0x2001, 0x10, 0, 0], 28), "ORCHID (RFC 4843)"),
    (Network::v6([0x2001, 0x20, 0, 0], 28), "ORCHID (RFC 7343)"),
    (Network::v6([0x2001, 0x30, 0, 0], 28), "drones (RFC 9374)"),
    (Network::v6([0x2001, 0, 0, 0], 23), "for protocols (RFC 2928)"),
    (Network::v6([0x2001, 0xdb8, 0, 0], 32), "for documentation (RFC 3849)"),
    (Network::v6([0x2620, 0x4f, 0x8000, 0], 48), "AS112 (RFC 7534)"),
    (Network::v6([0x3ffe, 0, 0, 0], 16), "the 6bone's (RFC 3701)"),
    (Network::v6([0x3fff, 0, 0, 0], 20), "for documentation (RFC 9637)"),
    (Network::v6([0x5f00, 0, 0, 0], 16), "segment routing (RFC 9602)"),
    (Network::v6([0xfc00, 0, 0, 0], 7), "private (RFC 4193)"),
    (Network::v6([0xfe80, 0, 0, 0], 10), "link-local (RFC 4291, 2.5.6)"),
    (Network::v6([0xfec0, 0, 0, 0], 10), "site-local (RFC 3879)"),
    (Network::v6([0xff00, 0, 0, 0], 8), "multicast (RFC 4291, 2.7)"),
];
const LOOPBACK: Network = Network::whole(Ipv6Addr::LOCALHOST, 128);
const UNSPECIFIED: Network = Network::whole(Ipv6Addr::UNSPECIFIED, 128);
const MAPPED: Network = Network::whole(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const TRANSLATED: Network = Network::whole(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96);
const COMPATIBLE: Network = Network::whole(Ipv6Addr::UNSPECIFIED, 96);
const NAT64: Network = Network::v6([0x64, 0xff9b, 0, 0], 96);
const SIX_TO_FOUR: Network = Network::v6([0x2002, 0, 0, 0], 16);
/// What is in use for hosts.
const UNICAST: Network = Network::v6([0x2000, 0, 0, 0], 3);

/// An address that must not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{address} is not public: {why}")]
pub struct Forbidden {
    /// Which.
    pub address: IpAddr,
    /// What it is instead.
    pub why: &'static str,
}

/// Who may be connected to.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Network>,
}

impl Guard {
    /// Public addresses, and these networks.
    pub fn new(allowed: Vec<Network>) -> Self {
        Self { allowed }
    }

    /// Whether an address may be connected to.
    ///
    /// # Errors
    /// [`Forbidden`], with the reason.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        let Some(why) = reason(address) else { return Ok(()) };
        if !self.allowed.iter().any(|network| network.contains(address)) {
            return Err(Forbidden { address, why });
        }
        // Allowing a gateway's form is not allowing all that is reached through it.
        carried(address).map_or(Ok(()), |inner| self.check(inner.into()))
    }
}

fn reason(address: IpAddr) -> Option<&'static str> {
    let named = FORBIDDEN.iter().find(|(network, _)| network.contains(address)).map(|(_, why)| *why);
    named.or_else(|| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) if is_isatap(address) => Some("an IPv4 address in ISATAP (RFC 5214)"),
        address => (!UNICAST.contains(address)).then_some("in no use for hosts (RFC 4291, 2.4)"),
    })
}

/// RFC 5214, 6.1: an interface identifier of `0:5efe` or `200:5efe` and the IPv4 address, in any network.
fn is_isatap(address: Ipv6Addr) -> bool {
    let [_, _, _, _, first, second, _, _] = address.segments();
    first & 0xfcff == 0 && second == 0x5efe
}

/// The address of IPv4 that one of IPv6 carries, in the forms where it is plain to see.
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(inner) = address else { return None };
    if LOOPBACK.contains(address) || UNSPECIFIED.contains(address) {
        return None;
    }
    // A cast that keeps the lowest 32 bits.
    let low = |number: u128| Ipv4Addr::from_bits((number & 0xffff_ffff) as u32);
    let number = inner.to_bits();
    if SIX_TO_FOUR.contains(address) {
        return Some(low(number >> 80));
    }
    let ends_so = [MAPPED, TRANSLATED, COMPATIBLE, NAT64].iter().any(|form| form.contains(address));
    (ends_so || is_isatap(inner)).then(|| low(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses by verdict, one a line: address, then `public` or a word of the reason.
    const TABLE: &str = include_str!("../../tests/vectors/addresses.txt");

    #[test]
    fn every_address_of_the_table_has_its_verdict() {
        let guard = Guard::default();
        let mut counted = (0, 0);
        for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (address, expected) = line.split_once(' ').expect(line);
            let verdict = guard.check(address.parse().expect(line));
            match (expected, verdict) {
                ("public", Ok(())) => counted.0 += 1,
                (word, Err(Forbidden { why, .. })) if why.contains(word) => counted.1 += 1,
                (_, verdict) => panic!("{line}: {verdict:?}"),
            }
        }
        assert!(counted.0 >= 20 && counted.1 >= 200, "{counted:?}");
    }

    #[test]
    fn first_and_last_of_every_network_are_refused() {
        let guard = Guard::default();
        for (network, _) in FORBIDDEN {
            let (first, last) = network.ends();
            assert!(guard.check(first).is_err() && guard.check(last).is_err(), "{network}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_and_nothing_besides() {
        let guard = |texts: &[&str]| Guard::new(texts.iter().map(|text| text.parse().unwrap()).collect());
        let check = |guard: &Guard, address: &str| guard.check(address.parse().unwrap()).is_ok();
        let inside = guard(&["10.1.0.0/16", "fd00::/8"]);
        assert!(check(&inside, "10.1.2.3") && check(&inside, "fd12::1") && check(&inside, "8.8.8.8"));
        for address in ["10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3", "fc00::1", "64:ff9b::10.1.2.3", "2002:a01:203::"] {
            assert!(!check(&inside, address), "{address}");
        }
        // NAT64 as a site without IPv4 needs it: the gateway leads to what is public.
        let gateway = guard(&["64:ff9b::/96"]);
        assert!(check(&gateway, "64:ff9b::8.8.8.8"));
        for address in ["64:ff9b::10.1.2.3", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8"] {
            assert!(!check(&gateway, address), "{address}");
        }
        let everything = guard(&["::/0"]);
        assert!(check(&everything, "::1") && check(&everything, "::ffff:8.8.8.8"));
        assert!(!check(&everything, "::ffff:127.0.0.1") && !check(&everything, "2002:7f00:1::"));
    }
}

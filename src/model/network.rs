//! Networks: an address and how many of its bits count (RFC 4632, RFC 4291).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// `10.0.0.0/8`, `fd00::/8`; a single address is a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

/// Why a text is no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// Not an address, or a length that the address does not have.
    #[error("is not a network such as 10.1.0.0/16 or fd00::/8")]
    Malformed,
    /// Bits are set behind those that count: `10.1.2.3/8`. Either the address or the length is a slip.
    #[error("names an address within a network: its bits behind the prefix must be 0")]
    HostBits,
}

impl Network {
    /// A network of IPv4.
    pub const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u32) -> Self {
        Self { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    /// A network of IPv6, by the parts that its first address begins with.
    pub const fn v6(parts: [u16; 4], bits: u32) -> Self {
        let [a, b, c, d] = parts;
        Self { first: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), bits }
    }

    /// A network of IPv6, by its first address.
    pub const fn whole(first: Ipv6Addr, bits: u32) -> Self {
        Self { first: IpAddr::V6(first), bits }
    }

    /// Its first and its last address.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        // A shift by all bits leaves none.
        let last = match self.first {
            IpAddr::V4(first) => (first.to_bits() | u32::MAX.checked_shr(self.bits).unwrap_or(0)).to_be_bytes().into(),
            IpAddr::V6(first) => {
                Ipv6Addr::from_bits(first.to_bits() | u128::MAX.checked_shr(self.bits).unwrap_or(0)).into()
            }
        };
        (self.first, last)
    }

    /// Whether an address is in it. One of IPv4 is in no network of IPv6, however it may be written there.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                // A shift by all bits is none.
                (first.to_bits() ^ address.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                (first.to_bits() ^ address.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| NetworkError::Malformed)?;
        let all = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= all).ok_or(NetworkError::Malformed)?
            }
            Some(_) => return Err(NetworkError::Malformed),
            None => all,
        };
        let behind = match first {
            IpAddr::V4(first) => first.to_bits().checked_shl(bits).unwrap_or(0) != 0,
            IpAddr::V6(first) => first.to_bits().checked_shl(bits).unwrap_or(0) != 0,
        };
        if behind { Err(NetworkError::HostBits) } else { Ok(Self { first, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_or_out() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("fc00::/7", "fdff::1", "fe00::"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("::1", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "10.1.2.3"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {network}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network() {
        for text in
            ["", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "::/129", "host/8", "10.0.0.0/8/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed), "{text:?}");
        }
        for text in ["10.1.2.3/8", "fd00::1/8", "127.0.0.1/31"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::HostBits), "{text:?}");
        }
    }
}

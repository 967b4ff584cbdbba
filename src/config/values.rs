//! Values with a spelling of their own: sizes in bytes, file modes, listening addresses, lists from the environment.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer as _},
};

/// A number of bytes: a plain number, or a text such as `"512MiB"`, `"20 GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = bytesize::ByteSize::deserialize(deserializer)?;
        Ok(Self(size.as_u64()))
    }
}

/// A part of a file system: an amount, such as `"2GiB"` or `10000`, or a percentage, such as `"5%"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// So many bytes, or inodes.
    Amount(u64),
    /// So many of a hundred.
    Percent(f64),
}

impl Default for Share {
    fn default() -> Self {
        Self::Amount(0)
    }
}

impl Share {
    /// How much of `whole` it is.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }

    /// Whether it is nothing, of whatever.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Amount(0)) || self == Self::Percent(0.0)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().strip_suffix('%') {
            Some(percent) => match percent.trim().parse() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
                _ => Err(format!("{text:?} is no percentage")),
            },
            None => match text.parse::<bytesize::ByteSize>() {
                Ok(size) => Ok(Self::Amount(size.as_u64())),
                Err(_) => {
                    Err(format!("{text:?} is neither an amount, such as \"2GiB\", nor a percentage, such as \"5%\""))
                }
            },
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A time in seconds: a plain number, or a text such as `"90d"`, `"12h"`, `"15m"`, `"30s"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "" | "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(86_400),
            _ => None,
        };
        let seconds = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        seconds.map(Self).ok_or_else(|| format!("{text:?} is not a time such as \"90d\", \"12h\", \"15m\" or \"30s\""))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What a file may have as a number, and the environment has as a text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "neither a whole number nor a text")]
    enum Spelling {
        Number(u64),
        Text(String),
    }
    Ok(match Spelling::deserialize(deserializer)? {
        Spelling::Number(number) => number.to_string(),
        Spelling::Text(text) => text,
    })
}

/// A word of a fixed list. Asked as a text, so that the error names the list: by itself the library names a Rust type.
pub(super) fn one_of<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

/// As [`one_of`], where the key may be absent.
pub(super) fn one_of_these<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    one_of(deserializer).map(Some)
}

/// Words of a fixed list by name, asked as [`one_of`] asks.
pub(super) fn one_of_each<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let words: BTreeMap<String, String> = BTreeMap::deserialize(deserializer)?;
    words.into_iter().map(|(name, word)| Ok((name, T::deserialize(word.into_deserializer())?))).collect()
}

/// Permission bits, written in octal: `"0644"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(D::Error::custom(format!("{text:?} is not a file mode such as \"0644\""))),
        }
    }
}

/// Where to listen: an address and port, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(format!("{text:?}: the path of a unix socket must be absolute")),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("{text:?} is neither ADDRESS:PORT (an IP address) nor unix:/PATH")),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A list. In a file it is an array; in the environment, where all values are text, it is a JSON array.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    entries(ListSpelling::deserialize(deserializer)?)
}

/// As [`list`], where the key may be absent.
pub(super) fn optional_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    list(deserializer).map(Some)
}

/// Lists by name, each read as [`list`] reads it.
pub(super) fn lists<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let spelled: BTreeMap<String, ListSpelling> = BTreeMap::deserialize(deserializer)?;
    spelled.into_iter().map(|(name, list)| Ok((name, entries(list)?))).collect()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "not a list")]
enum ListSpelling {
    Json(String),
    Array(Vec<serde_json::Value>),
}

/// The entries of a list. No message shows any of them: lists hold secrets.
fn entries<T: DeserializeOwned, E: serde::de::Error>(list: ListSpelling) -> Result<Vec<T>, E> {
    let array = match list {
        ListSpelling::Array(array) => serde_json::Value::Array(array),
        ListSpelling::Json(text) => serde_json::from_str(&text)
            .map_err(|_| E::custom("a list in the environment is written as a JSON array"))?,
    };
    serde_json::from_value(array).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => E::custom(scrubbed(&error)),
        _ => E::custom("not a list"),
    })
}

/// serde's message without the values it quotes.
fn scrubbed(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("unknown field") || text.starts_with("missing field") {
        text
    } else if text.starts_with("unknown variant")
        && let Some((_, names)) = text.split_once("expected ")
    {
        format!("an entry has a word that is not {names}")
    } else {
        "an entry has the wrong type".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_amounts_or_percentages() {
        for (text, share) in [
            ("0", Share::Amount(0)),
            ("2GiB", Share::Amount(2 << 30)),
            ("10000", Share::Amount(10_000)),
            ("5%", Share::Percent(5.0)),
            ("0.5 %", Share::Percent(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(share), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "five", "NaN%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert_eq!((Share::Percent(12.5).of(800), Share::Amount(7).of(800)), (100, 7));
    }

    #[test]
    fn spans_have_a_unit() {
        for (text, seconds) in [("0", 0), ("45", 45), ("30s", 30), ("15m", 900), ("12h", 43_200), ("90d", 7_776_000)] {
            assert_eq!(text.parse(), Ok(Span(seconds)), "{text}");
        }
        for text in ["", "d", "1w", "-1d", "1.5h", "99999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

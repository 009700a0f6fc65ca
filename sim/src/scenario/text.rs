//! Quantities as scenarios write them: `20ms`, `4Gi`, `8000m`, `10ms..50ms`, `<800ms`, `>=99.95%`.

use std::fmt;
use std::time::Duration;

use control_plane::model::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize, Serializer};

/// A time, like `200us`, `20ms`, `5s`, `10m` or `1h`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct Time(pub(super) Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        time(&text).map(Self)
    }
}

/// Two times, like `10ms..50ms`, or one.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct Times(pub(super) Duration, pub(super) Duration);

impl TryFrom<String> for Times {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((&text, &text));
        let (least, most) = (time(least)?, time(most)?);
        if least > most {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self(least, most))
    }
}

/// An amount of memory, like `128Mi` or `4Gi`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct Memory(pub(super) Bytes);

impl TryFrom<String> for Memory {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("Mi", 1_u64), ("Gi", 1024)];
        let read = |(unit, mebi): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(mebi << 20);
        let bytes = units.into_iter().find_map(read).filter(|bytes| *bytes > 0);
        bytes.map(|bytes| Self(Bytes(bytes))).ok_or_else(|| format!("{text:?} is no amount like 128Mi or 4Gi"))
    }
}

/// Processor time, like `500m` or `8`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct Cpu(pub(super) MilliCpu);

impl TryFrom<String> for Cpu {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse::<u32>().ok(),
            None => text.parse::<u32>().ok().and_then(|cores| cores.checked_mul(1000)),
        };
        let millis = millis.filter(|millis| *millis > 0);
        millis.map(|millis| Self(MilliCpu(millis))).ok_or_else(|| format!("{text:?} is no amount like 500m or 8"))
    }
}

/// On which side of a bound something must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Below it.
    Less,
    /// Not above it.
    AtMost,
    /// Above it.
    More,
    /// Not below it.
    AtLeast,
}

impl Comparison {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }

    /// Takes a comparison off a text.
    fn read(text: &str) -> Option<(Self, &str)> {
        // The longer ones first: one begins with the other.
        let all = [Self::AtMost, Self::AtLeast, Self::Less, Self::More];
        all.into_iter().find_map(|one| Some((one, text.strip_prefix(one.as_str())?.trim_start())))
    }
}

/// A bound that a figure must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    /// On which side.
    pub comparison: Comparison,
    /// Of what.
    pub value: T,
}

impl<T: PartialOrd> Bound<T> {
    /// Returns whether a figure keeps the bound.
    pub fn holds(&self, figure: &T) -> bool {
        match self.comparison {
            Comparison::Less => *figure < self.value,
            Comparison::AtMost => *figure <= self.value,
            Comparison::More => *figure > self.value,
            Comparison::AtLeast => *figure >= self.value,
        }
    }
}

/// A bound of time, like `<10s`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct TimeBound(pub(super) Bound<Duration>);

impl TryFrom<String> for TimeBound {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (comparison, rest) =
            Comparison::read(&text).ok_or_else(|| format!("{text:?} is no bound like \"<10s\""))?;
        Ok(Self(Bound { comparison, value: time(rest)? }))
    }
}

/// A bound of a share, like `>=99.95%`; in millionths.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct ShareBound(pub(super) Bound<u64>);

impl TryFrom<String> for ShareBound {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no bound like \">=99.95%\"");
        let (comparison, rest) = Comparison::read(&text).ok_or_else(refuse)?;
        let percent = rest.strip_suffix('%').ok_or_else(refuse)?;
        let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
        if part.len() > 4 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let whole: u64 = whole.parse().ok().filter(|whole| *whole <= 100).ok_or_else(refuse)?;
        let part: u64 = format!("{part:0<4}").parse().map_err(|_| refuse())?;
        Ok(Self(Bound { comparison, value: whole * 10_000 + part }))
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let units = [("us", 1_u64), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
    let read = |(unit, micros): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(micros);
    let micros = units.into_iter().find_map(read);
    micros.map(Duration::from_micros).ok_or_else(|| format!("{text:?} is no time like 20ms, 5s, 10m or 1h"))
}

/// Writes a time as people read it.
pub(super) fn told(time: Duration) -> String {
    match time.as_micros() {
        micros if micros >= 10_000_000 => format!("{}.{} s", micros / 1_000_000, micros / 100_000 % 10),
        micros if micros >= 1_000_000 => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
        micros => format!("{} ms", micros / 1_000),
    }
}

/// Writes millionths as a percentage.
pub(super) fn percent(millionths: u64) -> String {
    format!("{}.{:04} %", millionths / 10_000, millionths % 10_000)
}

impl fmt::Display for Bound<Duration> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.comparison.as_str(), told(self.value))
    }
}

impl fmt::Display for Bound<u64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.comparison.as_str(), percent(self.value))
    }
}

/// Writes a time as milliseconds, for machines.
pub(super) fn as_millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_or_refused_with_an_example() {
        assert_eq!(time("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("10"), Err("\"10\" is no time like 20ms, 5s, 10m or 1h".to_owned()));
        let bound = ShareBound::try_from(">=99.95%".to_owned()).expect("it is a bound").0;
        assert_eq!((bound.comparison, bound.value), (Comparison::AtLeast, 999_500));
        assert!(bound.holds(&999_500) && !bound.holds(&999_499));
        for bad in ["99%", ">=99", ">=101%", ">=9.99999%", ">=9.-5%", "=>1%"] {
            assert!(ShareBound::try_from(bad.to_owned()).is_err(), "{bad:?} was taken");
        }
        let bound = TimeBound::try_from("<10s".to_owned()).expect("it is a bound").0;
        assert!(bound.holds(&Duration::from_millis(9_999)) && !bound.holds(&Duration::from_secs(10)));
        assert_eq!(Memory::try_from("4Gi".to_owned()), Ok(Memory(Bytes(4 << 30))));
        for bad in ["4", "0Mi", "-1Mi", "99999999999999Gi"] {
            assert!(Memory::try_from(bad.to_owned()).is_err(), "{bad:?} was taken");
        }
        assert_eq!(Cpu::try_from("8".to_owned()), Ok(Cpu(MilliCpu(8000))));
        assert!(Times::try_from("5ms..1ms".to_owned()).is_err());
    }

    #[test]
    fn figures_are_written_for_people() {
        let written = [0, 999, 1_230, 12_345].map(|millis| told(Duration::from_millis(millis)));
        assert_eq!(written, ["0 ms", "999 ms", "1.23 s", "12.3 s"]);
        assert_eq!(percent(999_500), "99.9500 %");
    }
}

//! Which values a configuration may have.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use control_plane::model::FeatureLevel;

use super::{Config, ConfigError, Period, Size};

/// How long certificates may be good for: a renewal takes seconds, and one that was stolen is good to its end.
const CERTIFICATE_LIVES: RangeInclusive<Period> =
    Period(Duration::from_secs(10))..=Period(Duration::from_secs(90 * 86_400));

impl Config {
    /// Returns an error where a value is outside of its limits, or does not fit another.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse =
            |key, value: &dyn ToString, limits| Err(ConfigError::OutOfRange { key, value: value.to_string(), limits });
        if self.ports.gateway != 0 && self.ports.gateway == self.ports.api {
            return refuse("ports.api", &self.ports.api, "another port than ports.gateway");
        }
        if self.ports.peers != 0 && [self.ports.gateway, self.ports.api].contains(&self.ports.peers) {
            return refuse("ports.peers", &self.ports.peers, "another port than ports.gateway and ports.api");
        }
        if self.join.address.is_empty() != self.join.token.is_empty() {
            return refuse("join", &"half given", "join.address and join.token, or neither");
        }
        if self.feature_level > FeatureLevel::NEWEST.0 {
            return Err(ConfigError::TooNew { given: self.feature_level });
        }
        if !CERTIFICATE_LIVES.contains(&self.peers.certificate_life) {
            return refuse("peers.certificate-life", &self.peers.certificate_life, "10s to 90d");
        }
        if !(1..=64).contains(&self.sandbox.spawners) {
            return refuse("sandbox.spawners", &self.sandbox.spawners, "1 to 64");
        }
        if self.sandbox.pool > 1024 {
            return refuse("sandbox.pool", &self.sandbox.pool, "at most 1024");
        }
        let is_own = |address: &&Ipv4Addr| address.is_loopback() || address.is_unspecified() || address.is_link_local();
        if let Some(address) = self.egress.dns.iter().find(is_own) {
            return refuse("egress.dns", address, "an address that a sandbox can reach: not loopback, not link-local");
        }
        if self.egress.subnet.count() <= self.sandbox.pool {
            return refuse(
                "egress.subnet",
                &self.egress.subnet,
                "a range of more addresses than sandbox.pool has sandboxes",
            );
        }
        if self.gateway.connections_max == 0 {
            return refuse("gateway.connections-max", &0, "at least 1");
        }
        // A body is buffered in memory, and its event is about a third longer.
        if self.gateway.body_max > Size(1 << 30) {
            return refuse("gateway.body-max", &self.gateway.body_max, "at most 1Gi");
        }
        // One segment of the log is the least that can be kept.
        if self.logs.function_max < Size(1 << 20) {
            return refuse("logs.function-max", &self.logs.function_max, "at least 1Mi");
        }
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data-dir", &"empty", "a path");
        }
        Ok(())
    }
}

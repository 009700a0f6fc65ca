//! Metrics as Prometheus' older text format has them, out of the OpenMetrics format.
//!
//! The two differ in little: in the older one a counter's family is named as its sample is, with `_total`, an info is a gauge,
//! and there are neither units nor an end. Everything that is not Prometheus itself reads the older one.

use std::collections::BTreeMap;

/// Returns a text in the OpenMetrics format in the older one.
pub fn plain(open_metrics: &str) -> String {
    // What a family is called and what it is, in the older format.
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let renamed: BTreeMap<&str, (String, &str)> = types
        .map(|(name, kind)| match kind {
            "counter" => (name, (format!("{name}_total"), kind)),
            "info" => (name, (format!("{name}_info"), "gauge")),
            _ => (name, (name.to_owned(), kind)),
        })
        .collect();
    let mut text = String::new();
    for line in open_metrics.lines() {
        let told = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        let typed = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        match (told, typed) {
            (Some((name, help)), _) => {
                let name = renamed.get(name).map_or(name, |(name, _)| name.as_str());
                text += &format!("# HELP {name} {help}\n");
            }
            (None, Some((name, kind))) => {
                let (name, kind) = renamed.get(name).map_or((name, kind), |(name, kind)| (name.as_str(), *kind));
                text += &format!("# TYPE {name} {kind}\n");
            }
            (None, None) if line.starts_with("# UNIT ") || line == "# EOF" => {}
            (None, None) => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn counters_and_infos_have_the_names_of_their_samples() {
        let text = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{f=\"x\"} 2\n# HELP a_size_bytes Size.\n# TYPE \
            a_size_bytes gauge\n# UNIT a_size_bytes bytes\na_size_bytes 3\n# HELP a_build What runs.\n# TYPE a_build \
            info\na_build_info{version=\"1\"} 1\n# EOF\n";
        expect![[r#"
            # HELP a_calls_total Calls.
            # TYPE a_calls_total counter
            a_calls_total{f="x"} 2
            # HELP a_size_bytes Size.
            # TYPE a_size_bytes gauge
            a_size_bytes 3
            # HELP a_build_info What runs.
            # TYPE a_build_info gauge
            a_build_info{version="1"} 1
        "#]]
        .assert_eq(&plain(text));
    }
}

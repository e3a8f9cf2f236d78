//! Owns the sum of a metric's samples in Prometheus' text format (behaviour 6.9). Looks at the lines of that metric alone: what
//! is wrong in another line decides nothing.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>, and OpenMetrics, whose exemplars follow ` # `.

use crate::config::{Metric, metric_labels};

/// The sum of the samples with the metric's name and labels, as a result.
///
/// # Errors
/// There is no such sample, one cannot be read, or the sum is no number.
pub fn sum(text: &str, metric: &Metric) -> Result<String, String> {
    let mut sum = None;
    for line in text.lines().map(str::trim_ascii_start) {
        let Some(rest) = line.strip_prefix(metric.name.as_str()) else { continue };
        // Another metric's name may begin with this one's.
        if !rest.starts_with(['{', ' ', '\t']) {
            continue;
        }
        // A sample with other labels decides nothing, even if it cannot be read.
        if let Some(value) = sample(rest, metric).ok_or("a sample of it cannot be read")? {
            let value: f64 = value.parse().map_err(|_| "a sample of it cannot be read")?;
            sum = Some(sum.unwrap_or(0.0) + value);
        }
    }
    match sum {
        None => Err("there is no sample of it".into()),
        Some(sum) if !sum.is_finite() => Err(format!("its value is {sum}, which is no number to go by")),
        // Without the sign of a zero.
        Some(sum) => Ok((sum + 0.0).to_string()),
    }
}

/// The value of a sample, of which this stands behind the name; none if it has other labels than the metric.
fn sample<'t>(text: &'t str, metric: &Metric) -> Option<Option<&'t str>> {
    let text = text.trim_ascii_start();
    // Of as many labels as a sample may have, those alone are kept that the config names. A missing one is an empty one.
    let mut is_as_wanted: Vec<bool> = metric.labels.iter().map(|(_, wanted)| wanted.is_empty()).collect();
    let rest = match text.strip_prefix('{') {
        Some(text) => metric_labels(text, |name, value| {
            if let Some(at) = metric.labels.iter().position(|(wanted, _)| wanted == name) {
                is_as_wanted[at] = metric.labels[at].1 == value;
            }
        })?,
        None => text,
    };
    if !is_as_wanted.into_iter().all(|is| is) {
        return Some(None);
    }
    // A timestamp may follow, or an exemplar.
    rest.split_ascii_whitespace().next().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, labels: &[(&str, &str)]) -> Metric {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Metric { name: name.into(), labels }
    }

    const TEXT: &str = "\
# HELP players_online Players, by world.
# TYPE players_online gauge
players_online{world=\"over\"} 3
players_online{world=\"nether\", server=\"a,b}\",} 2 1395066363000
  players_online { } 0.5
players_online_total 100
# players_online 1000
escaped{path=\"C:\\\\DIR\\n\\\"x\\\"\"} 7
bare 1.5e3 1
plus +Inf
nothing NaN
exemplar_bucket{le=\"10\"} 17 # {trace_id=\"a\"} 9.8 1520879607.789
negative -0
broken{world=\"x} 1
broken_value 1,5
other{world=\"x\"} oops
other{world=\"y\"} 2
";

    #[test]
    fn samples_with_the_labels_are_added_up() {
        for (name, labels, expected) in [
            ("players_online", &[][..], Ok("5.5")),
            ("players_online", &[("world", "over")], Ok("3")),
            ("players_online", &[("server", "a,b}")], Ok("2")),
            // A label that is missing is an empty one.
            ("players_online", &[("world", "")], Ok("0.5")),
            ("players_online", &[("world", "end")], Err("no sample")),
            ("players", &[], Err("no sample")),
            ("escaped", &[("path", "C:\\DIR\n\"x\"")], Ok("7")),
            ("bare", &[], Ok("1500")),
            ("plus", &[], Err("inf")),
            ("nothing", &[], Err("NaN")),
            ("exemplar_bucket", &[("le", "10")], Ok("17")),
            ("negative", &[], Ok("0")),
            ("broken", &[], Err("cannot be read")),
            ("broken_value", &[], Err("cannot be read")),
            // What nobody asked for decides nothing.
            ("other", &[("world", "y")], Ok("2")),
            ("other", &[("world", "x")], Err("cannot be read")),
        ] {
            match (sum(TEXT, &metric(name, labels)), expected) {
                (Ok(sum), Ok(expected)) => assert_eq!(sum, expected, "{name} {labels:?}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{name} {labels:?}: {why}"),
                (found, _) => panic!("{name} {labels:?}: {found:?}"),
            }
        }
        assert_eq!(sum("a 1\r\na 2\r\n", &metric("a", &[])), Ok("3".into()));
        assert_eq!(sum("a 1", &metric("a", &[])), Ok("1".into()));
    }
}

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
        let (labels, value) = sample(rest).ok_or("a sample of it cannot be read")?;
        if metric
            .labels
            .iter()
            .all(|(name, value)| labels.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v) == value)
        {
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

/// The labels and the value of a sample, behind its name.
fn sample(text: &str) -> Option<(Vec<(String, String)>, f64)> {
    let text = text.trim_ascii_start();
    let (labels, rest) = match text.strip_prefix('{') {
        Some(text) => metric_labels(text)?,
        None => (Vec::new(), text),
    };
    // A timestamp may follow, or an exemplar.
    let value = rest.split_ascii_whitespace().next()?;
    Some((labels, value.parse().ok()?))
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

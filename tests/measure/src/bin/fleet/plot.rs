//! Owns docs/fleet.svg: what the fleet takes against its size. It has a background of its own, and so is as legible on a
//! dark page as on a light one.

use std::fmt::Write;

use super::figures::Row;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Around the axes of a panel.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;

/// A line of a panel.
struct Line {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// The whole file.
pub(crate) fn svg(rows: &[Row], caption: &str) -> String {
    let points = |of: &dyn Fn(&Row) -> Option<f64>| {
        rows.iter().filter_map(|row| Some((row.sidecars as f64, of(row)?))).collect::<Vec<_>>()
    };
    let cpu = [
        Line { name: "all sidecars", colour: "#0550ae", points: points(&|row| Some(row.cpu)) },
        Line { name: "the game", colour: "#8c5a00", points: points(&|row| Some(row.game_cpu)) },
    ];
    let memory = [
        Line { name: "cgroup", colour: "#8c5a00", points: points(&|row| row.cgroup) },
        Line { name: "PSS", colour: "#0550ae", points: points(&|row| Some(row.pss)) },
    ];
    let (width, height) = (2.0 * WIDTH, HEIGHT + 26.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n\
         <title>CPU and memory against the number of sidecars</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n"
    );
    panel(&mut svg, 0.0, "CPU, cores", &cpu);
    panel(&mut svg, WIDTH, "memory of a sidecar, KiB", &memory);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"11\" fill=\"#59636e\">{caption}</text>\n</svg>",
        height - 14.0
    );
    svg
}

/// Both axes begin at 0.
fn panel(svg: &mut String, x: f64, title: &str, lines: &[Line]) {
    let most = |of: &dyn Fn(&(f64, f64)) -> f64| lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max);
    let (across, up) = (ticks(most(&|point| point.0)), ticks(most(&|point| point.1)));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value: f64| LEFT + (right - LEFT) * value / across[across.len() - 1];
    let at_y = |value: f64| bottom - (bottom - TOP) * value / up[up.len() - 1];
    let _ = writeln!(svg, "<g transform=\"translate({x} 0)\">");
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"24\" font-size=\"14\" font-weight=\"bold\">{title}</text>");
    for value in &up {
        let y = at_y(*value);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#d1d9e0\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            shown(*value)
        );
    }
    for value in &across {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            at_x(*value),
            bottom + 18.0,
            shown(*value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">number of sidecars</text>",
        (LEFT + right) / 2.0,
        bottom + 38.0
    );
    for Line { name, colour, points } in lines {
        let path: Vec<String> =
            points.iter().map(|(n, value)| format!("{:.1} {:.1}", at_x(*n), at_y(*value))).collect();
        let Some((last_n, last)) = points.last() else { continue };
        let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        for (n, value) in points {
            let _ =
                writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", at_x(*n), at_y(*value));
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"bold\" fill=\"{colour}\">{name}</text>",
            at_x(*last_n),
            at_y(*last) - 9.0
        );
    }
    let _ = writeln!(svg, "</g>");
}

/// From 0 to `most` or a little beyond, five or so, a round number apart.
fn ticks(most: f64) -> Vec<f64> {
    let rough = most.max(f64::MIN_POSITIVE) / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..=(most / step).ceil() as usize).map(|number| number as f64 * step).collect()
}

/// A number without decimals that are zero.
fn shown(value: f64) -> String {
    format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

//! Plots as SVG, for the page.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::figures::{Figure, latency_at};
use super::table::in_thousands;
use crate::compare::contender::Carrier;
use crate::compare::record::{Comparison, Spread};

const WIDTH: u32 = 860;
const ROW: u32 = 26;
const MARGIN: u32 = 70;

/// The colour of a contender, the same in all plots.
const fn colour(carrier: Carrier) -> RGBColor {
    match carrier {
        Carrier::Tidegate => RGBColor(0, 114, 178),
        Carrier::Bare => RGBColor(86, 180, 233),
        Carrier::FlowEntries => RGBColor(204, 121, 167),
        Carrier::Testpmd => RGBColor(0, 158, 115),
        Carrier::Forward => RGBColor(150, 150, 150),
        Carrier::Nftables => RGBColor(230, 159, 0),
        Carrier::Iptables => RGBColor(213, 94, 0),
        Carrier::Wire => RGBColor(200, 200, 200),
    }
}

/// Draws a bar for each contender that has the figure, with its lowest and highest repeat; `None` if nobody has it.
pub fn bars(comparison: &Comparison, figure: &Figure) -> Result<Option<String>> {
    let rows: Vec<_> = comparison
        .contenders
        .iter()
        .filter_map(|findings| Some((findings.contender, (figure.of)(comparison, findings)?)))
        .collect();
    let Some(longest) = rows.iter().map(|(_, spread)| spread.high).max_by(f64::total_cmp) else {
        return Ok(None);
    };
    let mut svg = String::new();
    {
        let count = rows.len();
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH, ROW * count as u32 + MARGIN)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{} ({})", figure.title, figure.unit), ("sans-serif", 15))
            .x_label_area_size(26)
            .y_label_area_size(170)
            .margin(6)
            .build_cartesian_2d(0.0..(longest * 1.18).max(1.0), 0.0..count as f64)
            .map_err(|error| anyhow!("{error}"))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_label_formatter(&|value| in_thousands(*value))
            .draw()
            .map_err(|error| anyhow!("{error}"))?;
        for (row, (contender, spread)) in rows.iter().enumerate() {
            let Spread { median, low, high } = *spread;
            let middle = (count - row) as f64 - 0.5;
            let parts = [
                Rectangle::new(
                    [(0.0, middle - 0.36), (median, middle + 0.36)],
                    colour(contender.carrier).filled(),
                ),
                Rectangle::new([(low, middle - 0.03), (high, middle + 0.03)], BLACK.filled()),
            ];
            chart.draw_series(parts).map_err(|error| anyhow!("{error}"))?;
            let (x, y) = chart.backend_coord(&(0.0, middle));
            let style = TextStyle::from(("sans-serif", 13).into_font());
            area.draw(&Text::new(contender.to_string(), (x - 165, y - 7), style.clone()))?;
            let (x, _) = chart.backend_coord(&(high.max(median), middle));
            area.draw(&Text::new(in_thousands(median), (x + 6, y - 7), style))?;
        }
        area.present()?;
    }
    Ok(Some(svg))
}

/// Draws p50, p99 and p99.9 of each contender at a part of its highest rate, on a logarithmic scale.
pub fn latencies(comparison: &Comparison, load: f64) -> Result<Option<String>> {
    let rows: Vec<_> = comparison
        .contenders
        .iter()
        .filter_map(|findings| Some((findings.contender, *latency_at(findings, load)?)))
        .collect();
    let us = |ns: u64| (ns as f64 / 1000.0).max(0.1);
    let Some(longest) = rows.iter().map(|(_, at)| us(at.latency.p99_9)).max_by(f64::total_cmp) else {
        return Ok(None);
    };
    let mut svg = String::new();
    {
        let count = rows.len();
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH, ROW * count as u32 + MARGIN)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(
                format!("Latency at {:.0} % of its own highest rate: p50, p99, p99.9 (µs)", load * 100.0),
                ("sans-serif", 15),
            )
            .x_label_area_size(26)
            .y_label_area_size(170)
            .margin(6)
            .build_cartesian_2d((0.1..longest * 1.5).log_scale(), 0.0..count as f64)
            .map_err(|error| anyhow!("{error}"))?;
        chart.configure_mesh().disable_y_mesh().y_labels(0).draw().map_err(|error| anyhow!("{error}"))?;
        for (row, (contender, at)) in rows.iter().enumerate() {
            let middle = (count - row) as f64 - 0.5;
            let colour = colour(contender.carrier);
            let (p50, p99, p99_9) = (us(at.latency.p50), us(at.latency.p99), us(at.latency.p99_9));
            let line = PathElement::new(vec![(p50, middle), (p99_9, middle)], colour.stroke_width(2));
            chart.draw_series([line]).map_err(|error| anyhow!("{error}"))?;
            let dots = [(p50, 6), (p99, 5), (p99_9, 3)];
            let dots = dots.map(|(x, size)| Circle::new((x, middle), size, colour.filled()));
            chart.draw_series(dots).map_err(|error| anyhow!("{error}"))?;
            let (x, y) = chart.backend_coord(&(0.1, middle));
            let style = TextStyle::from(("sans-serif", 13).into_font());
            area.draw(&Text::new(contender.to_string(), (x - 165, y - 7), style))?;
        }
        area.present()?;
    }
    Ok(Some(svg))
}

//! Makes a page and a table of what a comparison wrote down.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_bench::compare::record::Comparison;
use tidegate_bench::compare::report::{page, table};

/// Makes a page with plots, and a table, of what `compare` wrote down
#[derive(Parser)]
#[command(name = "report")]
struct Options {
    /// What `compare` wrote
    json: PathBuf,
    /// Where the page goes
    #[arg(long)]
    html: Option<PathBuf>,
    /// File whose table is replaced; without it the table goes to stdout
    #[arg(long)]
    readme: Option<PathBuf>,
}

fn run(options: &Options) -> Result<()> {
    let text = fs::read_to_string(&options.json).with_context(|| options.json.display().to_string())?;
    let comparison: Comparison = serde_json::from_str(&text).context("not what compare writes")?;
    if let Some(html) = &options.html {
        fs::write(html, page::html(&comparison)?).with_context(|| html.display().to_string())?;
    }
    let summary = table::summary(&comparison);
    let Some(readme) = &options.readme else {
        print!("{summary}");
        return Ok(());
    };
    let text = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    let placed = table::placed(&text, &summary).context("the file has no place for a table")?;
    fs::write(readme, placed).with_context(|| readme.display().to_string())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("report: {error:#}");
            ExitCode::FAILURE
        }
    }
}

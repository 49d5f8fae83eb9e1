//! The `tidegate` binary.

use std::io::IsTerminal;
use std::process::ExitCode;

use tidegate::cli::{self, Command, DnsCommand, LogFormat};
use tidegate::pod_environment;
use tracing_subscriber::EnvFilter;

/// Bad usage or configuration, as the design states.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    tidegate::memory::share_one_arena();
    let command_line = match cli::parse(std::env::args_os()) {
        Ok(command_line) => command_line,
        Err(error) => {
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Who asks one question wants its answer, and what is wrong.
    let (log_format, level) = match &command_line.command {
        Command::Run(arguments) => (arguments.log_format, "info"),
        Command::Dns(_) | Command::Env(_) | Command::ResolvConf(_) => (LogFormat::Text, "warn"),
    };
    if let Err(error) = log_to_stderr(log_format, level) {
        eprintln!("error: {error}");
        return ExitCode::from(USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the control thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match &command_line.command {
            Command::Run(arguments) if arguments.check => tidegate::check::run(arguments).await,
            Command::Run(arguments) => tidegate::start::run(arguments).await,
            Command::Dns(DnsCommand::Explain(arguments)) => tidegate::explain::run(arguments).await,
            Command::Env(arguments) => pod_environment::print_variables(arguments).await,
            Command::ResolvConf(arguments) => pod_environment::print_resolv_conf(arguments),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<tidegate::settings::BadConfiguration>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// `TIDEGATE_LOG` says what is logged, else it is `level` and above.
fn log_to_stderr(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = match std::env::var_os("TIDEGATE_LOG") {
        None => EnvFilter::new(level),
        Some(text) => EnvFilter::try_new(text.to_string_lossy()).map_err(|error| {
            format!("TIDEGATE_LOG `{}`: {error}; write `warn` or `tidegate=debug,info`", text.display())
        })?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

//! `tidegate dns explain`: says what a name is answered with and why, from the source alone.
//!
//! It makes the zone that a gateway with the same flags would serve once all is in force, and puts the question to
//! it. No gateway need run, and none is asked. ClusterIPs that an earlier run assigned are not looked at.

use crate::cli::{ExplainArguments, PodsMode};
use crate::cluster::{Cluster, Dirty};
use crate::dns::{self, Name, Outcome, Type, Zone, resolve};
use crate::printout::say;
use crate::settings::{self, BadConfiguration};
use crate::source::{self, Source};

/// Fewer dots than this and a pod's resolver tries its search list first. Source: kubelet's `ndots:5`.
const NDOTS: usize = 5;

/// Prints the explanation.
///
/// # Errors
/// A name, type or setting that is none, or a source that cannot be read.
pub async fn run(arguments: &ExplainArguments) -> anyhow::Result<()> {
    let servers = arguments.dns_listen.iter().map(|listen| listen.0.ip()).collect();
    let names = &arguments.names;
    let settings = settings::zone_of(names, &arguments.cluster_domain, &arguments.service_cidrs, servers);
    let zone = Zone::new(settings).map_err(|error| {
        BadConfiguration(format!("--cluster-domain {}: {error}", arguments.cluster_domain))
    })?;
    let qtype = Type::parse(&arguments.qtype).ok_or_else(|| {
        BadConfiguration(format!("TYPE `{}`: is no type; write `A`, `SRV` or `TYPE65`", arguments.qtype))
    })?;
    let candidates = candidates(&arguments.name, &arguments.namespace, &arguments.cluster_domain)
        .map_err(|error| BadConfiguration(format!("NAME `{}`: {error}", arguments.name)))?;
    let mut source = Source::open(source::Settings {
        arguments: &arguments.cluster,
        service_cidrs: &arguments.service_cidrs,
        pods: names.dns_pods == PodsMode::Verified,
        pod_names: names.dns_endpoint_pod_names,
        node_name: None,
        cluster_ips: None,
        cluster_file: None,
        run: false,
    })
    .await?;
    let (mut cluster, mut dirty) = (Cluster::default(), Dirty::default());
    for event in source.next().await.events {
        cluster.apply(event, &mut dirty);
    }
    let mut zone = zone.updated(&cluster, &dirty);
    zone.set_synced();
    say(format_args!("{}", explain_all(&zone, &candidates, qtype).trim_end()));
    for problem in &source.report().problems {
        say(format_args!("refused: {problem}"));
    }
    Ok(())
}

/// Explains one candidate after the other, as far as a resolver would go: up to the first that has records.
fn explain_all(zone: &Zone, candidates: &[Name], qtype: Type) -> String {
    let mut text = String::new();
    for name in candidates {
        text += &dns::explain(zone, name, qtype);
        let outcome = resolve(zone, name.as_name_ref(), qtype).outcome;
        if matches!(outcome, Outcome::Answer { .. } | Outcome::Chase { .. } | Outcome::Forward) {
            break;
        }
    }
    text
}

/// Returns what a pod's resolver asks for a name, in its order; a name that ends in a dot stands for itself.
fn candidates(text: &str, namespace: &str, domain: &str) -> Result<Vec<Name>, dns::InvalidName> {
    if text.ends_with('.') {
        return Ok(vec![Name::parse(text)?]);
    }
    let domain = domain.trim_end_matches('.');
    let search = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let mut candidates = Vec::new();
    for suffix in search {
        candidates.push(Name::parse(&format!("{text}.{suffix}"))?);
    }
    let first = if text.matches('.').count() < NDOTS { candidates.len() } else { 0 };
    candidates.insert(first, Name::parse(text)?);
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Vec<String> {
        candidates(text, "dev", "cluster.local").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_tried_as_a_pods_resolver_does() {
        assert_eq!(asked("ent.dev.svc.cluster.local."), ["ent.dev.svc.cluster.local."]);
        assert_eq!(
            asked("ent"),
            ["ent.dev.svc.cluster.local.", "ent.svc.cluster.local.", "ent.cluster.local.", "ent."]
        );
        assert_eq!(asked("a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
    }
}

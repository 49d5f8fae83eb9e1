//! The accounts of packets and frames, read from the metrics.

use std::collections::BTreeMap;

/// One scrape, summed over the workers.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    packets: BTreeMap<String, u64>,
    frames: BTreeMap<String, u64>,
}

impl Counters {
    /// Reads Prometheus text; the only place that knows how the counters are spelled there.
    pub(crate) fn parse(text: &str) -> Self {
        let mut counters = Self { packets: BTreeMap::new(), frames: BTreeMap::new() };
        for line in text.lines().filter(|line| line.starts_with("tidegate_")) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = name.trim_start_matches("tidegate_").trim_end_matches("_total");
            // Other metrics may hold fractions; the accounts are whole numbers.
            let Ok(value) = value.parse::<u64>() else { continue };
            if name == "frames" {
                let place = label(labels, "place");
                *counters.frames.entry(place.to_owned()).or_default() += value;
            } else {
                // Answers are counted by their kind; the accounts want their sum.
                if name.starts_with("answered_") {
                    *counters.packets.entry("answered".to_owned()).or_default() += value;
                }
                *counters.packets.entry(name.to_owned()).or_default() += value;
            }
        }
        counters
    }

    /// The counter of that name, such as `forwarded` or `drop_no_backend`.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> u64 {
        *self.packets.get(name).unwrap_or_else(|| panic!("no counter {name} in {:?}", self.packets))
    }

    /// The counters whose name starts with `drop_` and that are not 0.
    pub(crate) fn drops(&self) -> BTreeMap<&str, u64> {
        let drops = self.packets.iter().filter(|(name, value)| name.starts_with("drop_") && **value > 0);
        drops.map(|(name, value)| (name.as_str(), *value)).collect()
    }

    /// Frames at all places.
    pub(crate) fn all_frames(&self) -> u64 {
        self.frames.iter().filter(|(place, _)| *place != "all").map(|(_, frames)| frames).sum()
    }

    /// How much a counter grew since an earlier scrape.
    #[track_caller]
    pub(crate) fn grown(&self, since: &Self, name: &str) -> u64 {
        self.value(name) - since.value(name)
    }

    /// Asserts that every packet received and sent is accounted for.
    #[track_caller]
    pub(crate) fn assert_balance(&self) {
        let dropped: u64 = self.drops().values().sum();
        let settled = ["forwarded", "answered", "punted", "handed_over", "held"].map(|name| self.value(name));
        let received = self.value("rx_packets") + self.value("taken_over");
        assert_eq!(received, settled.iter().sum::<u64>() + dropped, "received: {self:#?}");
        let made = ["forwarded", "answered", "punted", "originated"].map(|name| self.value(name));
        assert_eq!(self.value("tx_packets"), made.iter().sum::<u64>(), "sent: {self:#?}");
        if let Some(all) = self.frames.get("all") {
            assert_eq!(self.all_frames(), *all, "frames: {self:#?}");
        }
    }
}

fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let start = labels.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("no label {name} in {labels}"));
    labels[start + name.len() + 2..].split('"').next().unwrap()
}

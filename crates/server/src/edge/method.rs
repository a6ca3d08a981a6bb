//! Which calls exist, and which class each belongs to: read once from the descriptors that reflection serves too.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorSet;

/// The package that clients are served from.
const PUBLIC_PACKAGE: &str = "berth.v1";
/// The service that is reached without a route table, because nearly every call is one of its.
const HOT_SERVICE: &str = "LookupService";
/// The name that unknown methods are measured under.
const OTHER: &str = "other";
/// Permits that a call takes whose answer may be as large as a batch: 10,000 results are some 400 KiB, and a
/// single lookup's answer is a few hundred bytes.
const WEIGHT_BATCH: u32 = 16;

/// Standard services beside the public package: path, and whether either side streams.
const STANDARD: [(&str, bool); 4] = [
    ("grpc.health.v1.Health/Check", false),
    ("grpc.health.v1.Health/Watch", true),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
];

/// What a call competes with: every class has a limit of its own, so that no class can starve another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Lookups and other small reads.
    Lookups,
    /// Lookup streams that are open, busy or not. The lookups in them compete with all other lookups.
    Streams,
    /// Changes of devices and topology.
    Writes,
    /// Import, export and lists.
    Bulk,
    /// Cluster administration.
    Admin,
    /// Health, reflection and unknown methods: cheap, and needed when all else is full.
    Standard,
}

/// A call's method, as far as the edge needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Place in the table of [`Methods`].
    pub(crate) index: u16,
    /// What it competes with.
    pub class: Class,
    /// Either side streams.
    pub streams: bool,
    /// It belongs to the lookup service.
    pub hot: bool,
    /// A call that ends early may have written something.
    pub mutates: bool,
    /// Permits of its class that it takes.
    pub weight: u32,
    /// How long a stream may be silent; `None` is for ever.
    pub idle_max: Option<Duration>,
}

/// Every method that is served, by path.
#[derive(Debug)]
pub struct Methods {
    by_path: HashMap<String, Method>,
    names: Vec<String>,
}

impl Class {
    /// All classes, in the order of their limits.
    pub const ALL: [Self; 6] =
        [Self::Lookups, Self::Streams, Self::Writes, Self::Bulk, Self::Admin, Self::Standard];

    /// Its name, as in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookups => "lookups",
            Self::Streams => "streams",
            Self::Writes => "writes",
            Self::Bulk => "bulk",
            Self::Admin => "admin",
            Self::Standard => "standard",
        }
    }

    /// How long a unary call may take whose caller set no deadline.
    pub fn deadline_default(self) -> Duration {
        match self {
            // Ten elections long: a lookup outlives a change of leader, and nothing waits for ever.
            Self::Lookups | Self::Streams | Self::Standard => Duration::from_secs(5),
            Self::Writes => Duration::from_secs(10),
            Self::Bulk | Self::Admin => Duration::from_secs(30),
        }
    }

    /// How long a unary call may take at most, whatever its caller asks for.
    pub fn deadline_max(self) -> Duration {
        match self {
            Self::Lookups | Self::Streams | Self::Standard => Duration::from_secs(30),
            Self::Writes => Duration::from_secs(60),
            // A list page scans millions of rows; a promotion waits for a learner to catch up.
            Self::Bulk => Duration::from_secs(300),
            Self::Admin => Duration::from_secs(600),
        }
    }
}

impl Method {
    /// Its full name, `package.Service/Method`.
    pub fn name(self) -> &'static str {
        METHODS.name(self)
    }
}

static METHODS: LazyLock<Methods> =
    LazyLock::new(|| Methods::from_descriptors(berth_proto::FILE_DESCRIPTOR_SET));

impl Methods {
    /// The methods of this build.
    pub fn of_this_build() -> &'static Self {
        &METHODS
    }

    /// The method of a request path, `/package.Service/Method`.
    pub fn find(&self, path: &str) -> Method {
        self.by_path.get(path).copied().unwrap_or(Method {
            index: 0,
            class: Class::Standard,
            streams: false,
            // A method of the lookup service that this build lacks is refused by the route table all the same.
            hot: false,
            mutates: false,
            weight: 1,
            idle_max: None,
        })
    }

    /// The full name of a method; `other` if it is unknown.
    pub fn name(&self, method: Method) -> &str {
        self.names.get(usize::from(method.index)).map_or(OTHER, String::as_str)
    }

    /// The names by index; the first is that of unknown methods.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn from_descriptors(encoded: &[u8]) -> Self {
        let mut methods = Self { by_path: HashMap::new(), names: vec![OTHER.to_owned()] };
        // The set was encoded by our own build; a test reads it.
        let set = FileDescriptorSet::decode(encoded).unwrap_or_default();
        for file in set.file.iter().filter(|file| file.package() == PUBLIC_PACKAGE) {
            for service in &file.service {
                for method in &service.method {
                    let streams = method.client_streaming() || method.server_streaming();
                    methods.add(PUBLIC_PACKAGE, service.name(), method.name(), streams);
                }
            }
        }
        for (path, streams) in STANDARD {
            if let Some((service, method)) = path.split_once('/') {
                methods.add("", service, method, streams);
            }
        }
        methods
    }

    fn add(&mut self, package: &str, service: &str, method: &str, streams: bool) {
        let dot = if package.is_empty() { "" } else { "." };
        let name = format!("{package}{dot}{service}/{method}");
        let Ok(index) = u16::try_from(self.names.len()) else { return };
        let class = match class_of(service, method) {
            Class::Lookups if streams => Class::Streams,
            class => class,
        };
        let entry = Method {
            index,
            class,
            streams,
            hot: service == HOT_SERVICE,
            mutates: mutates(class, method),
            weight: if method == "BatchLookup" { WEIGHT_BATCH } else { 1 },
            idle_max: idle_of(class, method),
        };
        self.by_path.insert(format!("/{name}"), entry);
        self.names.push(name);
    }
}

fn class_of(service: &str, method: &str) -> Class {
    match (service, method) {
        // It may wait for Azure, and shall not take a lookup's place meanwhile.
        ("LookupService", "Report") | ("ReconcileService", "ReconcileDevice") => Class::Writes,
        ("LookupService", _) => Class::Lookups,
        ("DeviceService", "List" | "Import" | "Export") => Class::Bulk,
        ("ClusterService", _) => Class::Admin,
        ("DeviceService" | "TopologyService" | "ReconcileService", read)
            if ["Get", "List", "Suggest"].iter().any(|verb| read.starts_with(verb)) =>
        {
            Class::Lookups
        }
        ("DeviceService" | "TopologyService" | "ReconcileService", _) => Class::Writes,
        (service, _) if service.starts_with("grpc.") => Class::Standard,
        // A service that is new here is watched closely until somebody gives it a class.
        _ => Class::Admin,
    }
}

fn mutates(class: Class, method: &str) -> bool {
    match class {
        // These may be repeated at will, so that their fate need not be known.
        Class::Writes => !["Report", "ReconcileDevice"].contains(&method),
        // What is new in administration is taken for a change until somebody says that it only reads.
        Class::Admin => !["Status", "Digest"].contains(&method),
        _ => method == "Import",
    }
}

fn idle_of(class: Class, method: &str) -> Option<Duration> {
    match (class, method) {
        // Whoever watches health waits for news that may never come; HTTP/2 pings tell whether they are there.
        (Class::Standard, "Watch") => None,
        // A device gateway keeps its lookup stream open through a quiet quarter of an hour.
        (Class::Streams, _) => Some(Duration::from_secs(900)),
        // Import and export hold pinned pages and a share of the disk.
        _ => Some(Duration::from_secs(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_class() {
        let methods = Methods::of_this_build();
        let class = |path: &str| {
            let method = methods.find(path);
            assert_ne!(method.index, 0, "{path} is not in the table");
            method.class
        };
        assert_eq!(class("/berth.v1.LookupService/Lookup"), Class::Lookups);
        assert_eq!(class("/berth.v1.LookupService/LookupStream"), Class::Streams);
        assert_eq!(class("/berth.v1.LookupService/Report"), Class::Writes);
        assert_eq!(class("/berth.v1.DeviceService/Get"), Class::Lookups);
        assert_eq!(class("/berth.v1.DeviceService/List"), Class::Bulk);
        assert_eq!(class("/berth.v1.DeviceService/BatchAssign"), Class::Writes);
        assert_eq!(class("/berth.v1.TopologyService/ListHubs"), Class::Lookups);
        assert_eq!(class("/berth.v1.TopologyService/GetCapacity"), Class::Lookups);
        assert_eq!(class("/berth.v1.TopologyService/SetState"), Class::Writes);
        assert_eq!(class("/berth.v1.ReconcileService/ReconcileDevice"), Class::Writes);
        assert_eq!(class("/berth.v1.ReconcileService/ResolveDrift"), Class::Writes);
        assert_eq!(class("/berth.v1.ReconcileService/ListDrift"), Class::Lookups);
        assert_eq!(class("/berth.v1.ReconcileService/GetBudget"), Class::Lookups);
        assert_eq!(class("/berth.v1.ClusterService/TransferLeader"), Class::Admin);
        assert_eq!(class("/grpc.health.v1.Health/Check"), Class::Standard);
        assert!(methods.names().len() > 40);
    }

    #[test]
    fn whatever_may_have_changed_something_is_known_for_it() {
        let methods = Methods::of_this_build();
        let mutates = |path: &str| methods.find(path).mutates;
        for changes in ["AddLearner", "Promote", "RemoveNode", "TransferLeader"] {
            assert!(mutates(&format!("/berth.v1.ClusterService/{changes}")), "{changes}");
        }
        for reads in ["ClusterService/Status", "ClusterService/Digest", "DeviceService/List"] {
            assert!(!mutates(&format!("/berth.v1.{reads}")), "{reads}");
        }
        assert!(mutates("/berth.v1.TopologyService/SetState") && mutates("/berth.v1.DeviceService/Import"));
        assert!(mutates("/berth.v1.ReconcileService/ResolveDrift"));
        assert!(
            !mutates("/berth.v1.ReconcileService/ReconcileDevice")
                && !mutates("/berth.v1.LookupService/Report")
        );
    }

    #[test]
    fn streams_and_names_come_from_the_descriptors() {
        let methods = Methods::of_this_build();
        let import = methods.find("/berth.v1.DeviceService/Import");
        assert!(import.streams && import.mutates && !import.hot);
        let lookup = methods.find("/berth.v1.LookupService/Lookup");
        assert!(!lookup.streams && !lookup.mutates && lookup.hot);
        assert_eq!(lookup.name(), "berth.v1.LookupService/Lookup");
        assert_eq!(
            methods.find("/berth.internal.RaftService/Vote").name(),
            "other",
            "peers are not served here"
        );
        assert_eq!(methods.find("/no.such.Service/Method").name(), "other");
    }
}

//! The contract between control plane and proxy: resources of the policy model over Envoy's incremental discovery
//! protocol (`DeltaAggregatedResources`, [xDS protocol]), with both ends as state machines that do no I/O.
//!
//! Everything is subscribed to by name, on demand: the mesh's settings as `mesh`, the proxy's own workload, services as
//! traffic names them, and the endpoint sets of held services, which [`client::Session`] sees to by itself.
//!
//! ```text
//!             proxy                                          control plane
//!    client::Session                                       server::Session (one per stream)
//!    ───────────────                                       ───────────────
//!    connected()                                           new()
//!    requests() ── node, names wanted, versions held ────▶ receive()
//!                                                          responses(lookup): what differs
//!    receive()  ◀── resources, removed names, nonce ────── one of a kind at a time
//!      │ Effects: changes, missing, rejected                 │ unanswered: changed() only marks names
//!    requests() ── ACK, or NACK naming what is refused ──▶ receive() → Nack
//!    subscribe(), unsubscribe()                            changed(kind, name)
//!    requests() ── names wanted, not wanted any more ────▶ receive(), responses(lookup)
//!    disconnected(): held resources stay                   dropped
//! ```
//!
//! A name at the client, which is its [`client::Status`] and outlives streams:
//!
//! ```text
//!                  ┌─ bad resource ──▶ Rejected ─┐
//!   subscribe ▶ Waiting ── resource ───────────────▶ Held ⟲ newer version; a bad one changes nothing
//!                  └─ removed ───────▶ Missing ──┘    │ removed: Missing
//!   unsubscribe from anywhere: forgotten; messages on their way for it are ignored
//! ```
//!
//! At either end the loop is the same: feed what happened (a message, a change, a wish), then send what
//! [`client::Session::requests`] or [`server::Session::responses`] returns.
//!
//! ```
//! use pillion_policy::{ResourceKind, Snapshot, name::WorkloadName};
//! use pillion_xds::{Encoded, Node, client, server};
//!
//! # fn main() -> Result<(), pillion_policy::Invalid> {
//! let set: pillion_policy::Resource = pillion_policy::Resource::Endpoints(std::sync::Arc::new(
//!     pillion_policy::endpoint::EndpointSet { name: "order.shop:80".parse()?, endpoints: vec![] },
//! ));
//! let mut proxy = client::Session::new(Node::new("default/api".parse::<WorkloadName>()?));
//! let mut control_plane = server::Session::new();
//!
//! proxy.subscribe(ResourceKind::Endpoints, "order.shop:80");
//! proxy.connected();
//! for request in proxy.requests() {
//!     control_plane.receive(request)?;
//! }
//! let mut snapshot = Snapshot::default();
//! let known = |kind, name: &str| (kind == set.kind() && name == set.name()).then(|| Encoded::of(&set));
//! for response in control_plane.responses(known) {
//!     snapshot = snapshot.apply(proxy.receive(response).changes);
//! }
//! assert_eq!(snapshot.resources().collect::<Vec<_>>(), [set]);
//! # Ok(())
//! # }
//! ```
//!
//! Beside it are [`report`], by which a proxy tells what is not well among the destinations it calls, [`observe`], by which
//! it is asked about traffic and tells it in [`story`], [`figures`] and the words of [`flag`], and [`ca`], by which it has its
//! certificate signed.
//!
//! [xDS protocol]: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

#![warn(missing_docs)]

pub mod client;
pub mod decode;
pub mod encode;
pub mod figures;
pub mod flag;
mod generated;
pub mod kind;
pub mod node;
pub mod server;
pub mod story;
pub mod version;

pub use encode::Encoded;
pub(crate) use generated::pillion::v1 as pillion;
pub use generated::{
    envoy::service::discovery::v3 as discovery, google::protobuf, istio::v1::auth as ca,
    pillion::observe::v1 as observe, pillion::report::v1 as report,
};
pub use node::Node;
pub use version::Version;

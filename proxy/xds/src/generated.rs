//! Code generated from `proto/`; `cargo xtask codegen` writes it anew.
#![allow(
    clippy::all,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    missing_docs,
    elided_lifetimes_in_paths,
    clippy::missing_debug_implementations,
    reason = "generated"
)]

pub mod envoy {
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("generated/envoy.service.discovery.v3.rs");
            }
        }
    }
}

pub mod google {
    pub mod protobuf {
        include!("generated/google.protobuf.rs");
    }
}

pub mod pillion {
    pub mod v1 {
        include!("generated/pillion.v1.rs");
    }
}

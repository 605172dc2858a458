//! Code generated from `proto/`; `cargo xtask codegen` writes it anew.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
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

pub mod istio {
    pub mod v1 {
        pub mod auth {
            include!("generated/istio.v1.auth.rs");
        }
    }
}

pub mod pillion {
    pub mod observe {
        pub mod v1 {
            include!("generated/pillion.observe.v1.rs");
        }
    }
    pub mod report {
        pub mod v1 {
            include!("generated/pillion.report.v1.rs");
        }
    }
    pub mod v1 {
        include!("generated/pillion.v1.rs");
    }
}

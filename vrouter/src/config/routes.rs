//! The routes of one moment, for whoever reads them while the configuration goes on.

use std::{net::IpAddr, ops::ControlFlow};

use super::{Config, RouteObject, RouteOrigin, State};

/// Routes of all VRFs. Shares everything with the configuration that it was taken from, so a
/// million of them can be read on another thread without holding up the main one.
#[derive(Clone, Debug)]
pub struct Routes(State);

impl Config {
    /// The routes of this moment.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes(self.state.clone())
    }
}

impl Routes {
    /// Visits the routes of all VRFs, or of one, in order, until `visit` breaks.
    pub fn for_each(
        &self,
        vrf: Option<u32>,
        mut visit: impl FnMut(RouteObject, RouteOrigin) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (id, state) in &*self.0.vrfs {
            if vrf.is_some_and(|vrf| vrf != *id) {
                continue;
            }
            state.fib.for_each(|prefix, group| {
                let (route, origin) = self.0.describe_route(*id, state.index, prefix, group);
                visit(route, origin)
            })?;
        }
        ControlFlow::Continue(())
    }

    /// The route that `address` takes in a VRF.
    #[must_use]
    pub fn to(&self, vrf: u32, address: IpAddr) -> Option<(RouteObject, RouteOrigin)> {
        let state = self.0.vrfs.get(&vrf)?;
        let found = state.fib.lookup(address)?;
        let prefix = crate::fib::prefix_of(address, found.length);
        Some(self.0.describe_route(vrf, state.index, prefix, found.group))
    }
}

use super::*;

/// Bytes of the future of a request, which hyper keeps a place for on every HTTP/1 connection.
const REQUEST: usize = 3584;

#[test]
fn an_open_connection_costs_little() {
    fn size<F: Future>(
        _handle: impl FnOnce(Rc<Downstream>, u16, Arc<Upstream>, Request<Incoming>) -> F,
    ) -> usize {
        size_of::<F>()
    }
    let of_request = size(handle);
    assert!(of_request <= REQUEST, "a request takes {of_request} bytes");
}

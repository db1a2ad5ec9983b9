// In a pod no user namespace can be made (seccomp RuntimeDefault), so Firefox isolates its web content with seccomp
// alone. The bar that warns of it offers a remedy (a change of the host) that is not the user's to make.
pref("security.sandbox.warn_unprivileged_namespaces", false);
pref("toolkit.cosmeticAnimations.enabled", false);
pref("ui.prefersReducedMotion", 1);

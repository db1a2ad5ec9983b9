// Go reference operator for the benchmark: controller-runtime, two modes.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	k8slabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

func main() {
	isTuned := flag.Bool("tuned", false, "32 workers, predicates, trimmed cache, parallel blind creates")
	same := flag.Bool("same-objects", false, "with --tuned: write what vdi writes, a Secret too")
	flag.Parse() // --kubeconfig is registered by controller-runtime; KUBECONFIG works too

	ctrl.SetLogger(logr.Discard())
	if err := run(*isTuned, *same); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(isTuned, same bool) error {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	addToScheme(scheme)
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	workers := 1 // controller-runtime's default; its client has no limiter by default since v0.22
	opts := ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}}
	if isTuned {
		workers = 32
		sel := k8slabels.SelectorFromSet(k8slabels.Set{managedLabel: managedValue})
		opts.Cache = cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}:                   {Label: sel},
				&corev1.PersistentVolumeClaim{}: {Label: sel},
				&corev1.Service{}:               {Label: sel},
				&corev1.Secret{}:                {Label: sel},
				&IngressRoute{}:                 {Label: sel},
			},
		}
	}
	mgr, err := ctrl.NewManager(cfg, opts)
	if err != nil {
		return err
	}

	copts := controller.Options{MaxConcurrentReconciles: workers}
	b := ctrl.NewControllerManagedBy(mgr).WithOptions(copts)
	if isTuned {
		session := predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.Funcs{
			UpdateFunc: func(e event.UpdateEvent) bool {
				return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
			},
			CreateFunc: func(event.CreateEvent) bool { return true },
			DeleteFunc: func(event.DeleteEvent) bool { return false },
		})
		gone := predicate.Funcs{ // our own creates and foreign status updates need no pass
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(e event.UpdateEvent) bool {
				return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
			},
		}
		pods := predicate.Funcs{
			CreateFunc: func(e event.CreateEvent) bool { return phaseOf(e.Object.(*corev1.Pod)) != "Creating" },
			UpdateFunc: func(e event.UpdateEvent) bool {
				return phaseOf(e.ObjectOld.(*corev1.Pod)) != phaseOf(e.ObjectNew.(*corev1.Pod))
			},
		}
		build := lightChildren
		if same {
			build = sameChildren
			b = b.Owns(&corev1.Secret{}, builder.WithPredicates(gone))
		}
		return start(mgr, b.For(&VDISession{}, builder.WithPredicates(session)).
			Owns(&corev1.Pod{}, builder.WithPredicates(pods)).
			Owns(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(gone)).
			Owns(&corev1.Service{}, builder.WithPredicates(gone)).
			Owns(&IngressRoute{}, builder.WithPredicates(gone)).
			Complete(&tuned{Client: mgr.GetClient(), build: build}))
	}
	return start(mgr, b.For(&VDISession{}).
		Owns(&corev1.Pod{}).
		Owns(&corev1.PersistentVolumeClaim{}).
		Owns(&corev1.Service{}).
		Owns(&IngressRoute{}).
		Complete(&scaffold{Client: mgr.GetClient(), scheme: mgr.GetScheme()}))
}

func start(mgr ctrl.Manager, err error) error {
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

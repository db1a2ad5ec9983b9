// evaluator says what NetworkPolicies allow, in the words of somebody else: cyclonus' simulation of their meaning.
//
// It reads one JSON object {"questions": [{"from", "to", "port", "portName", "protocol"}...], "sets": [[NetworkPolicy...]...]}
// and writes for each set a string with a character for each question: "y" where that traffic is allowed, "e" where the
// sender's policies are against it, "i" where the receiver's are, "n" where both are. A peer without a namespace is
// outside the cluster.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type peer struct {
	IP              string            `json:"ip"`
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	Labels          map[string]string `json:"labels"`
}

type question struct {
	From     peer            `json:"from"`
	To       peer            `json:"to"`
	Port     int             `json:"port"`
	PortName string          `json:"portName"`
	Protocol corev1.Protocol `json:"protocol"`
}

func (p peer) traffic() *matcher.TrafficPeer {
	made := &matcher.TrafficPeer{IP: p.IP}
	if p.Namespace != "" {
		made.Internal = &matcher.InternalPeer{PodLabels: p.Labels, NamespaceLabels: p.NamespaceLabels, Namespace: p.Namespace}
	}
	return made
}

func run() error {
	var asked struct {
		Questions []question                      `json:"questions"`
		Sets      [][]*networkingv1.NetworkPolicy `json:"sets"`
	}
	reader := json.NewDecoder(os.Stdin)
	reader.DisallowUnknownFields() // a misspelt field of a policy must not pass for one that says nothing
	if err := reader.Decode(&asked); err != nil {
		return err
	}
	answers := make([]string, 0, len(asked.Sets))
	for _, policies := range asked.Sets {
		meaning := matcher.BuildNetworkPolicies(false, policies)
		verdicts := make([]byte, 0, len(asked.Questions))
		for _, each := range asked.Questions {
			verdicts = append(verdicts, verdict(meaning, each))
		}
		answers = append(answers, string(verdicts))
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

func verdict(meaning *matcher.Policy, asked question) byte {
	result := meaning.IsTrafficAllowed(&matcher.Traffic{
		Source:           asked.From.traffic(),
		Destination:      asked.To.traffic(),
		ResolvedPort:     asked.Port,
		ResolvedPortName: asked.PortName,
		Protocol:         asked.Protocol,
	})
	switch egress, ingress := result.Egress.IsAllowed(), result.Ingress.IsAllowed(); {
	case egress && ingress:
		return 'y'
	case ingress:
		return 'e'
	case egress:
		return 'i'
	}
	return 'n'
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "evaluator: %v\n", err)
		os.Exit(1)
	}
}

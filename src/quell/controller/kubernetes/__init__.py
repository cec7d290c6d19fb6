"""The Kubernetes watch: nodes, namespaces, pods and services of a cluster, told as sightings."""

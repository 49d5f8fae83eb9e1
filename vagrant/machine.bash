# Sourced by the scripts beside it: the addresses of the four machines, and what each does with its devices.
# shellcheck shell=bash

readonly ROUTER_CLIENTS=10.1.0.1
readonly ROUTER_PODS=10.244.0.1
readonly CLIENT=10.1.0.2
readonly BACKENDS=(10.244.0.11 10.244.0.12)
readonly SERVICES=10.96.0.0/12
readonly PODS=10.244.0.0/24
# The Service `web` of the namespace `default`, and cluster DNS, for the scripts that source this one.
# shellcheck disable=SC2034
readonly WEB=10.96.1.10
# shellcheck disable=SC2034
readonly DNS=10.96.0.10

# device_with ADDRESS: the device that has it.
device_with() {
    ip -4 -o address show | awk -v address="$1/" 'index($4, address) == 1 { print $2; exit }'
}

# own_address ADDRESS...: the one of them that this machine has.
own_address() {
    local address
    for address in "$@"; do
        if [[ -n $(device_with "$address") ]]; then
            echo "$address"
            return
        fi
    done
    echo "this machine has none of $*" >&2
    return 1
}

# Super-packets and half-made checksums exist only between kernels that trust each other: a program that rewrites
# frames must get whole ones, so they are switched off wherever packets are made, and joined nowhere. A device that
# cannot switch one of them off has none to switch off.
send_whole_frames() {
    local offload
    for offload in tx tso gso gro; do
        ethtool -K "$1" "$offload" off >/dev/null 2>&1 || true
    done
}

# configure_network ROLE: routes and offloads; the addresses are there already.
configure_network() {
    local address
    case $1 in
        gateway)
            sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.send_redirects=0
            ;;
        client)
            ip route replace "$SERVICES" via "$ROUTER_CLIENTS"
            ip route replace "$PODS" via "$ROUTER_CLIENTS"
            send_whole_frames "$(device_with "$CLIENT")"
            ;;
        backend)
            address=$(own_address "${BACKENDS[@]}")
            ip route replace 10.1.0.0/24 via "$ROUTER_PODS"
            ip route replace "$SERVICES" via "$ROUTER_PODS"
            send_whole_frames "$(device_with "$address")"
            ;;
        *)
            echo "no role $1: client, gateway or backend" >&2
            return 2
            ;;
    esac
}

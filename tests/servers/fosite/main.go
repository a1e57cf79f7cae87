// A token endpoint of the OAuth library fosite, unmodified: client_credentials with private_key_jwt, as an issuer
// without a path.
//
//	fosite server.pem
//
// server.pem contains the certificate and the key for TLS. The program prints the issuer as soon as it listens on
// loopback. Each line of its standard input is a client's metadata in JSON; the program registers the client, or
// replaces it, and prints its id. The program ends when its standard input does.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
)

// What DefaultClientAuthenticationStrategy verifies; each client has one of them.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}

// A memoryStore is fosite's own, with clients that can be registered while it serves requests.
type memoryStore struct {
	*storage.MemoryStore
	mutex sync.Mutex
}

func (s *memoryStore) GetClient(ctx context.Context, id string) (fosite.Client, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.MemoryStore.GetClient(ctx, id)
}

func (s *memoryStore) register(client *fosite.DefaultOpenIDConnectClient) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Clients[client.ID] = client
}

func main() {
	listener, err := listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	issuer := fmt.Sprintf("https://localhost:%d", listener.Addr().(*net.TCPAddr).Port)
	store := &memoryStore{MemoryStore: storage.NewMemoryStore()}
	go func() { log.Fatal(http.Serve(listener, newHandler(issuer, store))) }()

	fmt.Println(issuer)
	for decoder := json.NewDecoder(os.Stdin); ; {
		client := &fosite.DefaultOpenIDConnectClient{}
		if err := decoder.Decode(client); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		store.register(client)
		fmt.Println(client.ID)
	}
}

func listen(pair string) (net.Listener, error) {
	certificate, err := tls.LoadX509KeyPair(pair, pair)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
}

func newHandler(issuer string, store *memoryStore) http.Handler {
	secret := make([]byte, 32)
	rand.Read(secret)
	config := &fosite.Config{GlobalSecret: secret, TokenURL: issuer + "/oauth2/token"}
	strategy := &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config)}
	provider := compose.Compose(config, store, strategy, compose.OAuth2ClientCredentialsGrantFactory)

	handler := http.NewServeMux()
	handler.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{
			"issuer":                                issuer,
			"authorization_endpoint":                issuer + "/oauth2/auth",
			"token_endpoint":                        config.TokenURL,
			"token_endpoint_auth_methods_supported": []string{"private_key_jwt"},
			"token_endpoint_auth_signing_alg_values_supported": algorithms,
		})
	})
	handler.HandleFunc("POST /oauth2/token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, &fosite.DefaultSession{})
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		response, err := provider.NewAccessResponse(r.Context(), request)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, request, response)
	})
	return handler
}

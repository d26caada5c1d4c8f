/* AES-GCM of intel-ipsec-mb behind plain functions, so that no layout of its structures is written down in Rust.
 * A key lies in memory of the caller's: WESPER_IMB_KEY_OCTETS octets, aligned to 64. */
#include <intel-ipsec-mb.h>
#include <stddef.h>
#include <stdint.h>

#define WESPER_IMB_KEY_OCTETS 1024

_Static_assert(sizeof(struct gcm_key_data) <= WESPER_IMB_KEY_OCTETS, "the Rust side gives 1024 octets for a key");

static IMB_MGR *manager;

/* Picks the code for this CPU; 0 if there is none. Call once, before all else. */
int wesper_imb_start(void)
{
    IMB_ARCH arch = IMB_ARCH_NONE;

    manager = alloc_mb_mgr(0);
    if (manager == NULL)
        return 0;
    init_mb_mgr_auto(manager, &arch);
    return arch != IMB_ARCH_NONE && imb_get_errno(manager) == 0;
}

/* Expands a key of 16, 24 or 32 octets; 0 for another length. */
int wesper_imb_expand(void *place, const uint8_t *key, size_t key_octets)
{
    struct gcm_key_data *expanded = place;

    switch (key_octets) {
    case 16:
        IMB_AES128_GCM_PRE(manager, key, expanded);
        return 1;
    case 24:
        IMB_AES192_GCM_PRE(manager, key, expanded);
        return 1;
    case 32:
        IMB_AES256_GCM_PRE(manager, key, expanded);
        return 1;
    default:
        return 0;
    }
}

/* Encrypts into text, from there or from another place, and writes tag_octets of the tag. nonce: 12 octets. */
void wesper_imb_seal(const void *place, size_t key_octets, const uint8_t *nonce, const uint8_t *aad, size_t aad_octets,
                     const uint8_t *from, uint8_t *text, size_t text_octets, uint8_t *tag, size_t tag_octets)
{
    const struct gcm_key_data *key = place;
    struct gcm_context_data state;

    switch (key_octets) {
    case 16:
        IMB_AES128_GCM_ENC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
        break;
    case 24:
        IMB_AES192_GCM_ENC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
        break;
    default:
        IMB_AES256_GCM_ENC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
    }
}

/* Decrypts into text, from there or from another place, and writes the tag that it should have had; the caller compares. */
void wesper_imb_open(const void *place, size_t key_octets, const uint8_t *nonce, const uint8_t *aad, size_t aad_octets,
                     const uint8_t *from, uint8_t *text, size_t text_octets, uint8_t *tag, size_t tag_octets)
{
    const struct gcm_key_data *key = place;
    struct gcm_context_data state;

    switch (key_octets) {
    case 16:
        IMB_AES128_GCM_DEC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
        break;
    case 24:
        IMB_AES192_GCM_DEC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
        break;
    default:
        IMB_AES256_GCM_DEC(manager, key, &state, text, from, text_octets, nonce, aad, aad_octets, tag, tag_octets);
    }
}

#include "pool/device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "pool/conf.h"

#define MAGIC "tierfs store"
#define VERSION "1"
#define FILE_NAME "tierfs-store"
#define FILE_TMP "tierfs-store.tmp"
#define STORE_DIR "store"
#define TEXT_MAX 512

static void token_text(const uint8_t *token, char text[static 2 * DEVICE_TOKEN_BYTES + 1])
{
	for (int i = 0; i < DEVICE_TOKEN_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", token[i]);
}

int device_conf_parse(const char *text, struct device_conf *ret)
{
	char version[12], token[2 * DEVICE_TOKEN_BYTES + 1];
	struct device_conf conf;

	if (strncmp(text, MAGIC "\n", sizeof(MAGIC)) != 0)
		return -EBADMSG;
	text += sizeof(MAGIC);
	if (conf_line(&text, "version", "0123456789", version, sizeof(version)))
		return -EBADMSG;
	if (strcmp(version, VERSION) != 0)
		return -EPROTONOSUPPORT;
	if (conf_line(&text, "pool", "0123456789abcdef", conf.pool_id, sizeof(conf.pool_id)) ||
	    conf_line(&text, "name", "abcdefghijklmnopqrstuvwxyz0123456789_-", conf.name, sizeof(conf.name)) ||
	    conf_line(&text, "token", "0123456789abcdef", token, sizeof(token)) || strlen(token) != sizeof(token) - 1 ||
	    *text != '\0')
		return -EBADMSG;
	for (int i = 0; i < DEVICE_TOKEN_BYTES; i++) {
		const char byte[] = { token[2 * i], token[2 * i + 1], 0 };

		conf.token[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	*ret = conf;
	return 0;
}

/* -ENOENT: there is none. */
static int read_conf(const struct device_config *config, int dir_fd, struct device_conf *ret)
{
	CLEANUP_CLOSE int fd = openat(dir_fd, FILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[TEXT_MAX + 1];
	ssize_t len;
	int err;

	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0 || (len = read(fd, text, TEXT_MAX)) < 0) {
		err = -errno;
		log_error("%s/%s: cannot read: %s", config->dir, FILE_NAME, strerror(-err));
		return err;
	}
	text[len] = '\0';
	err = device_conf_parse(text, ret);
	if (err)
		log_error("%s/%s: %s", config->dir, FILE_NAME,
			  err == -EBADMSG ? "is damaged, or not of a tierfs store" : "is of another format version");
	return err;
}

static int check(const struct device_config *config, const struct device_conf *conf)
{
	const char *what = NULL;

	if (strcmp(conf->pool_id, config->pool_id) != 0)
		what = "is a store of another pool";
	else if (strcmp(conf->name, config->name) != 0)
		what = "is another store of this pool";
	if (!what && config->token && memcmp(conf->token, config->token, DEVICE_TOKEN_BYTES) != 0) {
		log_error("option store.%s=%s: is not the store that the pool knows by that name; is another disk "
			  "mounted? a new store needs a new name",
			  config->name, config->dir);
		return -ENODEV;
	}
	if (!what)
		return 0;
	log_error("option store.%s=%s: %s; nothing was changed", config->name, config->dir, what);
	return -EINVAL;
}

static bool harmless(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "lost+found") || !strcmp(name, FILE_TMP);
}

static int check_empty(const struct device_config *config)
{
	struct dirent *entry;
	DIR *dir = opendir(config->dir);
	int err = 0;

	if (!dir) {
		err = -errno;
		log_error("%s: cannot read the directory: %s", config->dir, strerror(-err));
		return err;
	}
	while (!err && (entry = readdir(dir)))
		if (!harmless(entry->d_name))
			err = -ENOTEMPTY;
	closedir(dir);
	if (err)
		log_error("option store.%s=%s: is neither empty nor a store of a tierfs pool; nothing was changed",
			  config->name, config->dir);
	return err;
}

static int make(const struct device_config *config, int dir_fd, struct device_conf *ret)
{
	char text[TEXT_MAX], token[2 * DEVICE_TOKEN_BYTES + 1];
	int err = check_empty(config), len;

	if (err)
		return err;
	if (getrandom(ret->token, sizeof(ret->token), 0) != (ssize_t)sizeof(ret->token))
		return -EIO;
	token_text(ret->token, token);
	len = snprintf(text, sizeof(text), MAGIC "\nversion " VERSION "\npool %s\nname %s\ntoken %s\n", config->pool_id,
		       config->name, token);
	/* Guest memory will lie here: it is root's alone from now on. */
	if (fchmod(dir_fd, 0700) < 0)
		err = -errno;
	if (!err)
		err = conf_write_whole(dir_fd, FILE_NAME, FILE_TMP, text, (size_t)len);
	if (err)
		log_error("%s: cannot make a store there: %s", config->dir, strerror(-err));
	return err;
}

static int not_there(const struct device_config *config)
{
	log_error("option store.%s=%s: the store that the pool knows by that name is not there; is its disk mounted? "
		  "a new store needs a new name",
		  config->name, config->dir);
	return -ENODEV;
}

static int open_dir(const struct device_config *config, int *ret)
{
	int err = 0;

	if (!config->token && mkdir(config->dir, 0700) < 0 && errno != EEXIST)
		err = -errno;
	*ret = err ? -1 : open(config->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!err && *ret < 0)
		err = -errno;
	if (err == -ENOENT && config->token)
		return not_there(config);
	if (err)
		log_error("option store.%s=%s: cannot open the directory: %s", config->name, config->dir,
			  strerror(-err));
	return err;
}

int device_open(const struct device_config *config, uint8_t ret_token[static DEVICE_TOKEN_BYTES], char **ret_store_dir)
{
	CLEANUP_CLOSE int dir_fd = -1;
	struct device_conf conf;
	char *store_dir;
	struct stat attr;
	int err = open_dir(config, &dir_fd);

	if (err)
		return err;
	err = read_conf(config, dir_fd, &conf);
	if (err == -ENOENT && config->token)
		return not_there(config);
	err = err == -ENOENT ? make(config, dir_fd, &conf) : err ? err : check(config, &conf);
	if (err)
		return err;
	if (asprintf(&store_dir, "%s/" STORE_DIR, config->dir) < 0)
		return -ENOMEM;
	if (config->token && fstatat(dir_fd, STORE_DIR, &attr, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) {
		free(store_dir);
		return not_there(config);
	}
	if (!config->token && mkdirat(dir_fd, STORE_DIR, 0700) < 0 && errno != EEXIST) {
		err = -errno;
		log_error("%s: cannot make the directory: %s", store_dir, strerror(-err));
		free(store_dir);
		return err;
	}
	memcpy(ret_token, conf.token, DEVICE_TOKEN_BYTES);
	*ret_store_dir = store_dir;
	return 0;
}

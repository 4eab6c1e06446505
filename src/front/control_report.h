/* front/control_report.h - figures and maps. */
#pragma once

#include "front/control_request.h"

control_handler control_report_stat, control_report_ls, control_report_map;

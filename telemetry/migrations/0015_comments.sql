-- Describes every table and column, with the unit in square brackets; current is positive while discharging.
-- psql shows them with \d+ TABLE.

COMMENT ON TABLE ev_telemetry IS
    'Readings of the batteries, one row for each battery and time, with the champion''s main predictions.';
COMMENT ON COLUMN ev_telemetry.battery_id IS 'one pack or cell';
COMMENT ON COLUMN ev_telemetry.time IS 'event time, set by the battery [UTC]';
COMMENT ON COLUMN ev_telemetry.voltage IS 'terminal voltage of the pack [V]';
COMMENT ON COLUMN ev_telemetry.current IS 'positive while discharging [A]';
COMMENT ON COLUMN ev_telemetry.temperature IS 'hottest probe [degC]';
COMMENT ON COLUMN ev_telemetry.soc IS 'state of charge [%]';
COMMENT ON COLUMN ev_telemetry.soh IS 'state of health, measured or simulated [%]';
COMMENT ON COLUMN ev_telemetry.ambient_temperature IS 'air temperature outside the pack [degC]';
COMMENT ON COLUMN ev_telemetry.charge_cycles IS
    'age of the battery: charge moved, over that of one full cycle [equivalent full cycles]';
COMMENT ON COLUMN ev_telemetry.power_consumption IS 'positive while discharging [W]';
COMMENT ON COLUMN ev_telemetry.is_charging IS 'connected to a charger';
COMMENT ON COLUMN ev_telemetry.temperature_min IS 'coldest probe [degC]';
COMMENT ON COLUMN ev_telemetry.cell_voltage_min IS 'lowest cell voltage [V]';
COMMENT ON COLUMN ev_telemetry.cell_voltage_max IS 'highest cell voltage [V]';
COMMENT ON COLUMN ev_telemetry.cell_voltage_median IS 'median cell voltage [V]';
COMMENT ON COLUMN ev_telemetry.insulation_resistance IS 'between pack and chassis [kOhm]';
COMMENT ON COLUMN ev_telemetry.odometer_km IS 'distance driven so far [km]';
COMMENT ON COLUMN ev_telemetry.speed_kmh IS 'speed of the vehicle [km/h]';
COMMENT ON COLUMN ev_telemetry.warning_level IS 'alarm level of the pack: 0 none to 3 severe';
COMMENT ON COLUMN ev_telemetry.status IS 'NORMAL, WARNING or CRITICAL, by get_battery_health';
COMMENT ON COLUMN ev_telemetry.rul_prediction IS
    'remaining useful life, predicted by the champion [equivalent full cycles]';
COMMENT ON COLUMN ev_telemetry.failure_probability IS
    'probability of failure within the horizon, predicted by the champion';
COMMENT ON COLUMN ev_telemetry.prediction_timestamp IS 'when both were predicted [UTC]';
COMMENT ON COLUMN ev_telemetry.created_at IS 'when the row was stored [UTC]';
COMMENT ON COLUMN ev_telemetry.late IS
    'true for a reading that arrived after a newer one: stored, but not used for predictions';

COMMENT ON TABLE batteries IS 'Batteries and their properties; never deleted by retention.';
COMMENT ON COLUMN batteries.battery_id IS 'one pack or cell';
COMMENT ON COLUMN batteries.nominal_capacity_ah IS 'rated capacity [Ah]';
COMMENT ON COLUMN batteries.nominal_voltage IS 'rated voltage of the pack [V]';
COMMENT ON COLUMN batteries.chemistry IS 'an entry of telemetry.chemistries, e.g. NMC';
COMMENT ON COLUMN batteries.cells_in_series IS 'number of cells in series';
COMMENT ON COLUMN batteries.cells_in_parallel IS 'number of cells in parallel';
COMMENT ON COLUMN batteries.model IS 'model of the vehicle or cell';
COMMENT ON COLUMN batteries.in_service_since IS 'first day in service [UTC]';
COMMENT ON COLUMN batteries.fleet IS 'fleet or use that the battery belongs to';

COMMENT ON TABLE battery_cycles IS
    'Closed charge and discharge sessions, and cycles of laboratories; never deleted by retention.';
COMMENT ON COLUMN battery_cycles.battery_id IS 'one pack or cell';
COMMENT ON COLUMN battery_cycles.cycle_index IS 'age at the end of the cycle [equivalent full cycles]';
COMMENT ON COLUMN battery_cycles.kind IS 'charge, discharge or cycle (both, as laboratories report it)';
COMMENT ON COLUMN battery_cycles.start_time IS 'event time of the start [UTC]';
COMMENT ON COLUMN battery_cycles.end_time IS 'event time of the end [UTC]';
COMMENT ON COLUMN battery_cycles.throughput_ah IS 'charge moved in the session [Ah]';
COMMENT ON COLUMN battery_cycles.capacity_ah IS 'measured capacity: a label, never a feature [Ah]';
COMMENT ON COLUMN battery_cycles.capacity_method IS 'measured, partial_charge or manufacturer';
COMMENT ON COLUMN battery_cycles.soh IS 'state of health: a label, never a feature [%]';
COMMENT ON COLUMN battery_cycles.warning_level IS 'highest alarm during the cycle, a label';
COMMENT ON COLUMN battery_cycles.cc_charge_ah IS 'charge taken at the end of the constant-current phase [Ah]';
COMMENT ON COLUMN battery_cycles.cc_charge_time_s IS 'duration of the end of the constant-current phase [s]';
COMMENT ON COLUMN battery_cycles.cc_voltage_mean_v IS
    'mean of the voltage in the end of the constant-current phase [V]';
COMMENT ON COLUMN battery_cycles.cc_voltage_std_v IS
    'standard deviation of the voltage in the end of the constant-current phase [V]';
COMMENT ON COLUMN battery_cycles.cc_voltage_kurtosis IS
    'kurtosis of the voltage in the end of the constant-current phase';
COMMENT ON COLUMN battery_cycles.cc_voltage_skewness IS
    'skewness of the voltage in the end of the constant-current phase';
COMMENT ON COLUMN battery_cycles.cc_voltage_slope IS
    'slope of the voltage in the end of the constant-current phase [V a sample]';
COMMENT ON COLUMN battery_cycles.cc_voltage_entropy IS
    'entropy of the voltage in the end of the constant-current phase [nat]';
COMMENT ON COLUMN battery_cycles.cv_charge_ah IS 'charge taken in the constant-voltage phase [Ah]';
COMMENT ON COLUMN battery_cycles.cv_charge_time_s IS 'duration of the constant-voltage phase [s]';
COMMENT ON COLUMN battery_cycles.cv_current_mean_a IS 'mean of the current in the constant-voltage phase [A]';
COMMENT ON COLUMN battery_cycles.cv_current_std_a IS
    'standard deviation of the current in the constant-voltage phase [A]';
COMMENT ON COLUMN battery_cycles.cv_current_kurtosis IS 'kurtosis of the current in the constant-voltage phase';
COMMENT ON COLUMN battery_cycles.cv_current_skewness IS 'skewness of the current in the constant-voltage phase';
COMMENT ON COLUMN battery_cycles.cv_current_slope IS 'slope of the current in the constant-voltage phase [A a sample]';
COMMENT ON COLUMN battery_cycles.cv_current_entropy IS 'entropy of the current in the constant-voltage phase [nat]';
COMMENT ON COLUMN battery_cycles.charge_window_1_ah IS 'charged inside the first voltage window of the chemistry [Ah]';
COMMENT ON COLUMN battery_cycles.charge_window_2_ah IS 'charged inside the second voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.charge_window_3_ah IS 'charged inside the third voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.charge_window_4_ah IS 'charged inside the fourth voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.discharge_window_1_ah IS 'discharged inside the first voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.discharge_window_2_ah IS 'discharged inside the second voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.discharge_window_3_ah IS 'discharged inside the third voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.discharge_window_4_ah IS 'discharged inside the fourth voltage window [Ah]';
COMMENT ON COLUMN battery_cycles.charge_voltage_mean_v IS 'time-weighted, while charging [V]';
COMMENT ON COLUMN battery_cycles.discharge_voltage_mean_v IS 'time-weighted, while discharging [V]';
COMMENT ON COLUMN battery_cycles.charge_current_mean_a IS 'magnitude, while charging [A]';
COMMENT ON COLUMN battery_cycles.discharge_current_mean_a IS 'magnitude, while discharging [A]';
COMMENT ON COLUMN battery_cycles.resistance_ohm IS 'of one cell, regression of voltage on current [Ohm]';
COMMENT ON COLUMN battery_cycles.cell_voltage_spread_v IS 'highest minus lowest cell, mean [V]';
COMMENT ON COLUMN battery_cycles.temperature_mean_c IS 'hottest probe, time-weighted [degC]';
COMMENT ON COLUMN battery_cycles.temperature_rise_c IS 'hottest probe, last minus first of the session [degC]';

COMMENT ON TABLE battery_predictions IS
    'Predictions of the champion and of challengers, one row for each battery, time, target and role.';
COMMENT ON COLUMN battery_predictions.battery_id IS 'one pack or cell';
COMMENT ON COLUMN battery_predictions.time IS 'time of the reading that it was made from [UTC]';
COMMENT ON COLUMN battery_predictions.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN battery_predictions.value IS
    'predicted value, in the unit of the target: %, degC, equivalent full cycles, probability';
COMMENT ON COLUMN battery_predictions.lower IS 'lower end of the prediction interval, where the model has one';
COMMENT ON COLUMN battery_predictions.upper IS 'upper end of the prediction interval, where the model has one';
COMMENT ON COLUMN battery_predictions.due IS 'when its label matures [UTC]';
COMMENT ON COLUMN battery_predictions.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN battery_predictions.model_version IS 'registered version of the model';
COMMENT ON COLUMN battery_predictions.role IS 'champion or challenger';
COMMENT ON COLUMN battery_predictions.predicted_at IS 'when it was made [UTC]';
COMMENT ON COLUMN battery_predictions.cycle_index IS 'age of the battery at time [equivalent full cycles]';

COMMENT ON TABLE prediction_outcomes IS 'Predictions with their matured labels.';
COMMENT ON COLUMN prediction_outcomes.outcome_id IS 'rises in the order of recording';
COMMENT ON COLUMN prediction_outcomes.battery_id IS 'one pack or cell';
COMMENT ON COLUMN prediction_outcomes.time IS 'time of the reading that the prediction was made from [UTC]';
COMMENT ON COLUMN prediction_outcomes.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN prediction_outcomes.role IS 'champion or challenger';
COMMENT ON COLUMN prediction_outcomes.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN prediction_outcomes.model_version IS 'registered version of the model';
COMMENT ON COLUMN prediction_outcomes.value IS
    'predicted value, in the unit of the target: %, degC, equivalent full cycles, probability';
COMMENT ON COLUMN prediction_outcomes.lower IS 'lower end of the prediction interval, where the model has one';
COMMENT ON COLUMN prediction_outcomes.upper IS 'upper end of the prediction interval, where the model has one';
COMMENT ON COLUMN prediction_outcomes.actual IS 'label, in the unit of the target';
COMMENT ON COLUMN prediction_outcomes.error IS 'value - actual, in the unit of the target';
COMMENT ON COLUMN prediction_outcomes.cycle_index IS 'age of the battery at time [equivalent full cycles]';
COMMENT ON COLUMN prediction_outcomes.due IS 'when the label was expected to mature [UTC]';
COMMENT ON COLUMN prediction_outcomes.matured_at IS 'event time at which the label was known [UTC]';
COMMENT ON COLUMN prediction_outcomes.recorded_at IS 'time of recording, of the database [UTC]';

COMMENT ON TABLE kept_predictions IS
    'Predictions whose labels may mature after retention has deleted the telemetry: one for each battery and whole cycle.';
COMMENT ON COLUMN kept_predictions.battery_id IS 'one pack or cell';
COMMENT ON COLUMN kept_predictions.cycle IS 'age of the battery in whole equivalent full cycles';
COMMENT ON COLUMN kept_predictions.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN kept_predictions.role IS 'champion or challenger';
COMMENT ON COLUMN kept_predictions.time IS 'time of the reading that the prediction was made from [UTC]';
COMMENT ON COLUMN kept_predictions.value IS
    'predicted value, in the unit of the target: %, degC, equivalent full cycles, probability';
COMMENT ON COLUMN kept_predictions.lower IS 'lower end of the prediction interval, where the model has one';
COMMENT ON COLUMN kept_predictions.upper IS 'upper end of the prediction interval, where the model has one';
COMMENT ON COLUMN kept_predictions.cycle_index IS 'age of the battery at time [equivalent full cycles]';
COMMENT ON COLUMN kept_predictions.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN kept_predictions.model_version IS 'registered version of the model';

COMMENT ON TABLE battery_observations IS
    'Health and alarm levels that batteries reported: at most three rows for each whole cycle.';
COMMENT ON COLUMN battery_observations.battery_id IS 'one pack or cell';
COMMENT ON COLUMN battery_observations.cycle IS 'age of the battery in whole equivalent full cycles';
COMMENT ON COLUMN battery_observations.kind IS
    'first: first health of the cycle; change: last crossing of a whole percent in it; alarm: its highest alarm';
COMMENT ON COLUMN battery_observations.cycle_index IS 'age of the battery at time [equivalent full cycles]';
COMMENT ON COLUMN battery_observations.time IS 'time of the reading [UTC]';
COMMENT ON COLUMN battery_observations.soh IS 'reported state of health [%]';
COMMENT ON COLUMN battery_observations.soh_before IS 'state of health before a change [%]';
COMMENT ON COLUMN battery_observations.warning_level IS 'reported alarm level';

COMMENT ON TABLE evaluation_batteries IS 'Cursor and state of the evaluation for each battery.';
COMMENT ON COLUMN evaluation_batteries.battery_id IS 'one pack or cell';
COMMENT ON COLUMN evaluation_batteries.observed_until IS 'time of the newest evaluated reading [UTC]';
COMMENT ON COLUMN evaluation_batteries.cycle_index IS 'age at that reading [equivalent full cycles]';
COMMENT ON COLUMN evaluation_batteries.soh_cycle IS 'whole cycle of the newest observed health';
COMMENT ON COLUMN evaluation_batteries.soh IS 'newest observed health [%]';
COMMENT ON COLUMN evaluation_batteries.alarm_level IS 'highest alarm level so far';
COMMENT ON COLUMN evaluation_batteries.watched IS
    'whether the battery has reported its health or an alarm level, without which a missing alarm proves nothing';
COMMENT ON COLUMN evaluation_batteries.newest_cycle IS 'age at the newest row of battery_cycles that was evaluated';
COMMENT ON COLUMN evaluation_batteries.has_news IS 'whether there is something to evaluate';

COMMENT ON TABLE evaluation_roles IS 'Cursors of the evaluation for each battery and role.';
COMMENT ON COLUMN evaluation_roles.battery_id IS 'one pack or cell';
COMMENT ON COLUMN evaluation_roles.role IS 'champion or challenger';
COMMENT ON COLUMN evaluation_roles.kept_until IS 'time up to which predictions were copied to kept_predictions [UTC]';
COMMENT ON COLUMN evaluation_roles.kept_cycle IS 'newest whole cycle that was copied';
COMMENT ON COLUMN evaluation_roles.compared_until IS 'time up to which temperature forecasts were evaluated [UTC]';

COMMENT ON TABLE drift_status IS 'Drift of the present champions in the newest window.';
COMMENT ON COLUMN drift_status.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN drift_status.kind IS 'features, predictions or errors';
COMMENT ON COLUMN drift_status.score IS 'distance from the training reference';
COMMENT ON COLUMN drift_status.threshold IS 'distance that windows of the reference rarely exceed';
COMMENT ON COLUMN drift_status.is_drifting IS 'whether the rule over the last windows holds';
COMMENT ON COLUMN drift_status.checked_at IS 'time of the measurement, of the database [UTC]';
COMMENT ON COLUMN drift_status.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN drift_status.model_version IS 'registered version of the model';
COMMENT ON COLUMN drift_status.window_end IS 'event time of the end of the newest window [UTC]';
COMMENT ON COLUMN drift_status.windows IS 'number of newest windows that the rule considers';
COMMENT ON COLUMN drift_status.windows_out IS 'number of those windows that exceed the threshold';

COMMENT ON TABLE drift_models IS 'Champions whose drift is measured, and the cursor of the measurement.';
COMMENT ON COLUMN drift_models.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN drift_models.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN drift_models.model_version IS 'registered version of the model';
COMMENT ON COLUMN drift_models.since IS 'event time at which its first window begins [UTC]';
COMMENT ON COLUMN drift_models.looked_until IS 'event time up to which all windows have been measured [UTC]';
COMMENT ON COLUMN drift_models.note IS 'why drift is not measured, where it is not';
COMMENT ON COLUMN drift_models.followed_at IS 'since when it is monitored, of the database [UTC]';

COMMENT ON TABLE drift_windows IS 'Distance of each champion from its training reference, by window of event time.';
COMMENT ON COLUMN drift_windows.target IS 'soh, temperature, rul or failure';
COMMENT ON COLUMN drift_windows.kind IS 'features, predictions or errors';
COMMENT ON COLUMN drift_windows.model_name IS 'registered name of the model, e.g. battery-soh';
COMMENT ON COLUMN drift_windows.model_version IS 'registered version of the model';
COMMENT ON COLUMN drift_windows.window_start IS 'event time [UTC]';
COMMENT ON COLUMN drift_windows.window_end IS 'event time [UTC]';
COMMENT ON COLUMN drift_windows.samples IS 'number of values in the window';
COMMENT ON COLUMN drift_windows.batteries IS 'number of batteries in the window';
COMMENT ON COLUMN drift_windows.score IS 'distance from the training reference of model_version';
COMMENT ON COLUMN drift_windows.threshold IS 'distance that windows of the reference rarely exceed';
COMMENT ON COLUMN drift_windows.is_out IS 'whether the score exceeds the threshold';
COMMENT ON COLUMN drift_windows.detail IS 'features with the largest distances';
COMMENT ON COLUMN drift_windows.recorded_at IS 'time of recording, of the database [UTC]';

COMMENT ON TABLE battery_alerts IS 'Alerts: opened, acknowledged and resolved.';
COMMENT ON COLUMN battery_alerts.alert_id IS 'number of the alert';
COMMENT ON COLUMN battery_alerts.battery_id IS 'one pack or cell';
COMMENT ON COLUMN battery_alerts.rule IS 'name of the alert rule';
COMMENT ON COLUMN battery_alerts.severity IS 'WARNING or CRITICAL';
COMMENT ON COLUMN battery_alerts.reason IS 'sentence with value and threshold';
COMMENT ON COLUMN battery_alerts.value IS 'value that opened it or changed its severity';
COMMENT ON COLUMN battery_alerts.threshold IS 'limit that the value exceeded';
COMMENT ON COLUMN battery_alerts.evidence IS 'values of the battery at that time';
COMMENT ON COLUMN battery_alerts.opened_at IS 'event time of the reading that opened it [UTC]';
COMMENT ON COLUMN battery_alerts.changed_at IS 'time of the last change, of the database [UTC]';
COMMENT ON COLUMN battery_alerts.cleared_at IS 'event time of the reading that resolved it [UTC]';
COMMENT ON COLUMN battery_alerts.acknowledged_at IS 'when it was acknowledged [UTC]';
COMMENT ON COLUMN battery_alerts.acknowledged_by IS 'name of the person';
COMMENT ON COLUMN battery_alerts.note IS 'text of the person';

COMMENT ON TABLE alert_mutes IS 'Mutes of alerts; without a battery or a rule, a mute applies to all of them.';
COMMENT ON COLUMN alert_mutes.mute_id IS 'number of the mute';
COMMENT ON COLUMN alert_mutes.battery_id IS 'muted battery; null: all';
COMMENT ON COLUMN alert_mutes.rule IS 'muted rule; null: all';
COMMENT ON COLUMN alert_mutes.until IS 'end, of the clock [UTC]';
COMMENT ON COLUMN alert_mutes.reason IS 'text of the person';
COMMENT ON COLUMN alert_mutes.muted_by IS 'name of the person';
COMMENT ON COLUMN alert_mutes.created_at IS 'begin [UTC]';

COMMENT ON TABLE retrains IS
    'Training runs of the automatic retraining, their outcome, and the monitoring of the promotion that followed.';
COMMENT ON COLUMN retrains.retrain_id IS 'number of the training run';
COMMENT ON COLUMN retrains.domain IS 'model namespace';
COMMENT ON COLUMN retrains.started_at IS 'begin [UTC]';
COMMENT ON COLUMN retrains.ended_at IS 'end [UTC]';
COMMENT ON COLUMN retrains.host IS 'machine that trained';
COMMENT ON COLUMN retrains.started_by IS 'drift, or the name of a person';
COMMENT ON COLUMN retrains.reason IS 'sentence';
COMMENT ON COLUMN retrains.drift IS 'rows of drift_status that started it';
COMMENT ON COLUMN retrains.data_until IS 'event time of the newest reading or session in the training data [UTC]';
COMMENT ON COLUMN retrains.outcome IS 'promoted, not_promoted, failed or stopped';
COMMENT ON COLUMN retrains.detail IS 'result for each model, a sentence each';
COMMENT ON COLUMN retrains.error IS 'error message of a failed run';
COMMENT ON COLUMN retrains.release_before IS 'version of the release that served before';
COMMENT ON COLUMN retrains.release_after IS 'version of the release that was promoted';
COMMENT ON COLUMN retrains.run_id IS 'MLflow run';
COMMENT ON COLUMN retrains.watch IS 'state of the promotion monitoring: watching, passed, rolled_back or superseded';
COMMENT ON COLUMN retrains.watched IS 'by target: promoted version and replaced version';
COMMENT ON COLUMN retrains.watch_looks IS 'by target: number of compared outcomes at the last comparison';
COMMENT ON COLUMN retrains.watch_detail IS 'result of the promotion monitoring, a sentence';
COMMENT ON COLUMN retrains.watch_ended_at IS 'end of the promotion monitoring [UTC]';
COMMENT ON COLUMN retrains.watch_from IS 'event time that the fleet had reached when the monitoring began [UTC]';

COMMENT ON TABLE twin_consumers IS 'Database predictors (python -m serving.database) by name.';
COMMENT ON COLUMN twin_consumers.consumer IS 'name of the predictor';
COMMENT ON COLUMN twin_consumers.started_at IS 'rows stored before update states only [UTC]';

COMMENT ON TABLE twin_states IS 'Cursor and battery state of a database predictor for each battery.';
COMMENT ON COLUMN twin_states.consumer IS 'name of the predictor';
COMMENT ON COLUMN twin_states.battery_id IS 'one pack or cell';
COMMENT ON COLUMN twin_states.state IS 'encoded battery state; null before the first row';
COMMENT ON COLUMN twin_states.time IS 'time of the newest reading in the state [UTC]';
COMMENT ON COLUMN twin_states.read_until IS 'newest row that was read';
COMMENT ON COLUMN twin_states.predict_after IS 'readings up to this time update the state only [UTC]';
COMMENT ON COLUMN twin_states.cycles_after IS 'sessions that ended up to this time are in battery_cycles already [UTC]';
COMMENT ON COLUMN twin_states.updated_at IS 'time of the last update [UTC]';

COMMENT ON TABLE schema_migrations IS 'Applied migrations.';
COMMENT ON COLUMN schema_migrations.name IS 'file';
COMMENT ON COLUMN schema_migrations.sha256 IS 'digest of its statements';
COMMENT ON COLUMN schema_migrations.applied_at IS 'time of application [UTC]';

COMMENT ON VIEW latest_battery_status IS 'Newest reading of each battery.';
COMMENT ON VIEW ev_telemetry_hourly IS 'Means of each battery and hour.';
